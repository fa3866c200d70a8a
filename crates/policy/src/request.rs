//! What is known of a request.

use std::net::IpAddr;

use api::authz::Moment;

/// What is known of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// As on the wire.
    pub method: &'a str,
    /// What the client called, however it wrote it.
    pub host: &'a str,
    /// With its query.
    pub path: &'a str,
    /// Where the client is. A policy that asks for it ([`crate::Matcher::needs_address`]) must not be asked without.
    pub address: Option<IpAddr>,
    /// When it came. A policy that asks for it ([`crate::Matcher::needs_time`]) must be told.
    pub time: Moment,
    /// Whether the path needs no credential, by what authentication knows of this very route.
    pub open: bool,
    /// Who sends it; nothing where nobody has proven that. From the metadata of authentication, never from a header.
    pub identity: Option<Identity<'a>>,
}

/// Who sends a request. An empty text is none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity<'a> {
    /// `sub`
    pub subject: &'a str,
    /// `iss`
    pub issuer: &'a str,
    /// `tenant`
    pub tenant: &'a str,
    /// By which method it was proven.
    pub method: &'a str,
    /// What it may do.
    pub scopes: &'a [&'a str],
    /// What it belongs to.
    pub groups: &'a [&'a str],
    /// What the service's authentication carries beside, by name.
    pub claims: &'a [(&'a str, Vec<&'a str>)],
}

impl<'a> Identity<'a> {
    /// The values of a claim. Those that every identity has cannot be said again by one that a service has declared.
    pub fn values(&self, claim: &str) -> impl Iterator<Item = &'a str> {
        let (own, carried) = match claim {
            "sub" => (self.subject, None),
            "iss" => (self.issuer, None),
            "tenant" => (self.tenant, None),
            _ => ("", self.claims.iter().find(|(name, _)| *name == claim)),
        };
        let own = (!own.is_empty()).then_some(own);
        own.into_iter().chain(carried.into_iter().flat_map(|(_, values)| values.iter().copied()))
    }
}
