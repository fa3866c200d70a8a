//! ASAP tokens in `Authorization: Bearer`: services that sign for themselves.

use api::authn::Asap;
use jwt::InvalidToken;

use crate::{
    jwt::{bearer, identity},
    method::{Credential, Method, Outcome, Place, Proven, Stop},
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
        match token.asap_key_id(self) {
            Ok(_) => {}
            Err(InvalidToken::Issuer) => return Outcome::NotMine(InvalidToken::Issuer.text()),
            Err(why) => return Outcome::Bad(why.into()),
        }
        let Some(keys) = state.keys.get(&*self.key_server) else {
            return Outcome::Bad(Stop::Fault("the keys of the key server are not here"));
        };
        match token.verify_asap(self, keys, now) {
            Ok(verified) => {
                let identity = identity("asap", &verified, verified.issuer.as_str().into());
                Outcome::Good(Proven::by_token(identity, &verified, keys))
            }
            Err(why) => Outcome::Bad(why.into()),
        }
    }

    fn challenge(&self, error: Option<&str>) -> String {
        bearer(error)
    }
}
