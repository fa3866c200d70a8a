//! The templates that come with the binary.

macro_rules! defaults {
    ($($name:literal),* $(,)?) => {
        /// File name and text.
        pub(crate) const ALL: &[(&str, &str)] = &[$(($name, include_str!(concat!("../defaults/", $name)))),*];
    };
}

defaults![
    "authn_key_sets.yaml",
    "authn_policies.yaml",
    "authn_revocations.yaml",
    "authz_policies.yaml",
    "clusters.yaml",
    "edge_clusters.yaml",
    "endpoints.yaml",
    "listeners.yaml",
    "rate_limits.yaml",
    "routes.yaml",
    "secrets.yaml",
    "unknown_hosts.yaml",
    "virtual_hosts.yaml",
];
