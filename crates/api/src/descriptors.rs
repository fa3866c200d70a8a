//! The descriptors of every message that may be served.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

/// Envoy 1.40's descriptors without source information; `cargo xtask descriptors` makes the file anew.
const ENVOY: &[u8] = include_bytes!("../envoy.binpb");
const GATEHOUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gatehouse.binpb"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::new();
    for set in [ENVOY, GATEHOUSE] {
        if let Err(error) = pool.decode_file_descriptor_set(set) {
            panic!("the descriptor sets are part of the binary and must decode: {error}");
        }
    }
    pool
});

/// The descriptors of every resource that may be served: Envoy's and ours. Decoded once, in about 30 ms.
pub fn descriptor_pool() -> &'static DescriptorPool {
    &POOL
}
