//! The contract's messages as JSON, in the form that the protobuf documents give it and
//! that grpcurl prints: names in lowerCamelCase, enums by name, 64-bit numbers as text,
//! and nothing for what is not set.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::exit::Failure;
use crate::proto::DESCRIPTORS;

static CONTRACT: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

/// The names of the fields of a message, in the order of their numbers.
pub fn fields(name: &str) -> Vec<String> {
    let message = message(name);
    message.iter().flat_map(|message| message.fields()).map(|f| f.name().to_owned()).collect()
}

fn message(name: &str) -> Option<MessageDescriptor> {
    CONTRACT.as_ref()?.get_message_by_name(&format!("sessionpool.v1.{name}"))
}

/// A message of this name in `sessionpool.v1`, on one line.
pub fn line(name: &str, message: &impl Message) -> Result<String, Failure> {
    let convert = || {
        let bytes = message.encode_to_vec();
        let message = DynamicMessage::decode(self::message(name)?, bytes.as_slice()).ok()?;
        serde_json::to_string(&message).ok()
    };
    let json = convert().ok_or_else(|| Failure::Output(std::io::Error::other("no JSON form")))?;
    Ok(json + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{GetSessionResponse, Session, SessionStatus};

    #[test]
    fn f2_messages_have_the_names_and_forms_of_proto_json() {
        let mut session = Session {
            session_id: "s\"1".into(),
            message_count: 3,
            age: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            ..Session::default()
        };
        session.set_status(SessionStatus::Hibernated);
        let message = GetSessionResponse { session: Some(session) };
        let json = line("GetSessionResponse", &message).expect("JSON");
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let wanted = serde_json::json!({"session": {
            "sessionId": "s\"1", "status": "SESSION_STATUS_HIBERNATED", "age": "1.500s", "messageCount": "3",
        }});
        assert_eq!(value, wanted);
        assert_eq!(json.lines().count(), 1);
    }
}
