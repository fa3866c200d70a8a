//! One bounded HTTP request that cannot be talked into asking inside: for URLs that others have a say in, such as where
//! an issuer has its keys. Addresses are judged when a connection is made, so nothing changes between check and use.

mod fetcher;
mod freshness;
pub mod networks;

pub use api::network::{InvalidNetwork, Network};
pub use fetcher::{Answer, FetchError, Fetcher, InvalidCa, Limits};
pub use networks::Allowed;
pub use reqwest::Url;

#[cfg(test)]
mod tests;
