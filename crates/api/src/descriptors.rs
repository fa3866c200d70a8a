//! The descriptors of every message that may be served.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

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

/// A message in the JSON form of protobuf, with the names of the proto: what a template renders of it is read back as the
/// same message. `name` is the message's full one.
pub fn json(name: &str, message: &impl Message) -> Value {
    let written = || {
        let descriptor = POOL.get_message_by_name(name)?;
        let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()?;
        let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
        dynamic.serialize_with_options(serde_json::value::Serializer, &options).ok()
    };
    match written() {
        Some(json) => json,
        None => panic!("{name} is one of the descriptors that are part of the binary"),
    }
}
