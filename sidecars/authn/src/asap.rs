//! ASAP tokens in `Authorization: Bearer`: services that sign for themselves.

use api::authn::Asap;
use jwt::InvalidToken;

use crate::{
    identity::Kind,
    jwt::{bearer, by_keys, identity},
    learned::From,
    method::{Credential, Method, Outcome, Place, Stop},
    state::Snapshot,
};

impl Method for Asap {
    fn place(&self) -> Place<'_> {
        Place::Authorization("bearer")
    }

    fn verify(&self, credential: &Credential<'_>, state: &Snapshot, now: f64) -> Outcome {
        let token = match credential.token() {
            Ok(token) => token,
            Err(why) => return Outcome::NotMine(why.text()),
        };
        let id = match token.asap_key_id(self) {
            Ok(id) => id,
            Err(InvalidToken::Issuer) => return Outcome::NotMine(InvalidToken::Issuer.text()),
            Err(why) => return Outcome::Bad(why.into()),
        };
        let Some(server) = state.keys.get(&*self.key_server) else {
            return Outcome::Bad(Stop::Fault("the keys of the key server are not here"));
        };
        let urls = server.servers.clone();
        let from = (!urls.is_empty()).then(|| From::Servers { id: id.to_owned(), urls });
        // No URL holds a space.
        let name = format!("{} {id}", self.key_server);
        by_keys(&name, &server.keys, from, state, now, |keys| {
            let verified = token.verify_asap(self, keys, now)?;
            Ok((identity(Kind::Asap, &verified, verified.issuer.as_str().into()), verified))
        })
    }

    fn trusts(&self, issuer: &str) -> bool {
        self.issuers.iter().any(|trusted| **trusted == *issuer)
    }

    fn challenge(&self, error: Option<&str>) -> String {
        bearer(error)
    }
}
