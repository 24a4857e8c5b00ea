//! The methods that are served, as labels: read off the same descriptors that reflection serves, so
//! that a new one is not forgotten.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use crate::{measures::Labels, proto::DESCRIPTORS};

/// What any other path is called.
const UNKNOWN: &str = "unknown";

/// Labels by path.
#[derive(Debug)]
pub(super) struct Methods {
    by_path: HashMap<String, Arc<Labels>>,
    unknown: Arc<Labels>,
}

impl Methods {
    /// The contract's, and those of health checks and reflection.
    pub(super) fn served() -> Self {
        let mut by_path = HashMap::new();
        for encoded in [
            DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            // They are part of the program; one that could not be read would be `unknown`.
            let files = FileDescriptorSet::decode(encoded).unwrap_or_default().file;
            for file in files {
                for service in &file.service {
                    let service_name = format!("{}.{}", file.package(), service.name());
                    by_path.extend(service.method.iter().map(|method| {
                        let path = format!("/{service_name}/{}", method.name());
                        (path, labels(&service_name, method.name(), kind(method)))
                    }));
                }
            }
        }
        Self { by_path, unknown: labels(UNKNOWN, UNKNOWN, UNKNOWN) }
    }

    /// The method at a path.
    pub(super) fn of(&self, path: &str) -> &Arc<Labels> {
        self.by_path.get(path).unwrap_or(&self.unknown)
    }

    /// All that are known.
    pub(super) fn all(&self) -> impl Iterator<Item = &Labels> {
        self.by_path.values().map(AsRef::as_ref)
    }
}

fn labels(service: &str, method: &str, kind: &str) -> Arc<Labels> {
    let labels = [("grpc_type", kind), ("grpc_service", service), ("grpc_method", method)];
    Arc::new(labels.into_iter().map(|(name, value)| (name, value.to_owned())).collect())
}

fn kind(method: &MethodDescriptorProto) -> &'static str {
    match (method.client_streaming(), method.server_streaming()) {
        (false, false) => "unary",
        (true, false) => "client_stream",
        (false, true) => "server_stream",
        (true, true) => "bidi_stream",
    }
}
