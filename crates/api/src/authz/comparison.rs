//! `{id} == sub`: what stands in the path is compared with the identity.

use std::fmt;

use super::rule::{check_claim, check_text};
use crate::{Invalid, path::PathTemplate, pb};

/// A capture of the rule's paths, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Comparison {
    /// Of each path of the rule.
    pub capture: String,
    /// What it must be.
    pub with: Compared,
}

/// What a capture is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Compared {
    /// A claim that has its value, or lists it.
    Claim(String),
    /// One of the identity's groups.
    Groups,
    /// One of the identity's scopes.
    Scopes,
}

impl Comparison {
    pub(super) fn read(
        wire: pb::authz::Comparison,
        paths: &[PathTemplate],
        claims: &[String],
    ) -> Result<Self, Invalid> {
        use pb::authz::comparison::{Held, With};

        check_text("capture", &wire.capture)?;
        if paths.is_empty() || paths.iter().any(|path| path.position(&wire.capture).is_none()) {
            return Err(Invalid::new("capture", wire.capture, "a capture that each path of the rule has"));
        }
        let with = match wire.with {
            Some(With::Claim(name)) => {
                check_claim("claim", &name, claims)?;
                Compared::Claim(name)
            }
            Some(With::Held(held)) => match Held::try_from(held) {
                Ok(Held::Groups) => Compared::Groups,
                Ok(Held::Scopes) => Compared::Scopes,
                Ok(Held::Unspecified) | Err(_) => return Err(Invalid::new("held", held, "GROUPS or SCOPES")),
            },
            None => return Err(Invalid::missing("with", "a claim, groups or scopes")),
        };
        Ok(Self { capture: wire.capture, with })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capture, with } = self;
        match with {
            Compared::Claim(name) => write!(f, "{{{capture}}} == {name}"),
            Compared::Groups => write!(f, "{{{capture}}} in groups"),
            Compared::Scopes => write!(f, "{{{capture}}} in scopes"),
        }
    }
}
