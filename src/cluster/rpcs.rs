//! What is done with each rpc of the contract. An rpc that is not in the table would be served
//! by whichever node it comes to, so a test holds the table against the contract.

/// What every path of the contract begins with.
const SERVICE: &str = "/sessionpool.v1.SessionPoolService/";

/// An rpc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rpc {
    name: &'static str,
    /// Where the call is served.
    pub served: Served,
}

/// Where a call is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Where the session lives that the request names.
    WithSession {
        /// Whether the call shows a turn, for whose end a node that stops waits.
        shows_turn: bool,
    },
    /// By the node that it comes to, which asks all others; one that is asked by another node
    /// serves what lives there.
    Everywhere,
    /// By the node that it comes to.
    Here,
}

impl Served {
    #[cfg(test)]
    fn names_a_session(self) -> bool {
        matches!(self, Self::WithSession { .. })
    }
}

/// Where every request that names a session has its id.
pub const SESSION_FIELD: u64 = 1;

const TURN: Served = Served::WithSession { shows_turn: true };
const SESSION: Served = Served::WithSession { shows_turn: false };

const RPCS: [Rpc; 13] = [
    Rpc { name: "Query", served: TURN },
    Rpc { name: "Attach", served: TURN },
    Rpc { name: "WatchSession", served: SESSION },
    Rpc { name: "Respond", served: SESSION },
    Rpc { name: "Interrupt", served: SESSION },
    Rpc { name: "StopTask", served: SESSION },
    Rpc { name: "InterruptAll", served: Served::Everywhere },
    Rpc { name: "GetStats", served: Served::Everywhere },
    Rpc { name: "GetSession", served: SESSION },
    // The store has them all, and each node what they are doing there.
    Rpc { name: "ListSessions", served: Served::Everywhere },
    Rpc { name: "UpdateSession", served: SESSION },
    Rpc { name: "CloseSession", served: SESSION },
    // Names no session: the tools are for those of the tenant that live here.
    Rpc { name: "ServeTools", served: Served::Here },
];

/// The rpc of a path; `None` for what is not of the contract.
pub fn of(path: &str) -> Option<Rpc> {
    let name = path.strip_prefix(SERVICE)?;
    RPCS.into_iter().find(|rpc| rpc.name == name)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

    use super::*;

    #[test]
    fn every_rpc_of_the_contract_has_its_place() {
        let set = FileDescriptorSet::decode(crate::proto::DESCRIPTORS).expect("descriptors");
        let file = set.file.iter().find(|file| file.package() == "sessionpool.v1");
        let file = file.expect("the contract");
        let [service] = &file.service[..] else { panic!("one service") };
        assert_eq!(format!("/{}.{}/", file.package(), service.name()), SERVICE);
        let named: Vec<&str> = service.method.iter().map(|method| method.name()).collect();
        assert_eq!(RPCS.map(|rpc| rpc.name).to_vec(), named, "in the contract's order");
        for (method, rpc) in service.method.iter().zip(RPCS) {
            let input = method.input_type().rsplit('.').next().unwrap_or_default();
            let message = file.message_type.iter().find(|message| message.name() == input);
            let fields = &message.expect("its request").field;
            let id = fields.iter().find(|field| field.name() == "session_id");
            let is_first = id.map(|id| (id.number(), id.r#type()));
            let wanted = rpc
                .served
                .names_a_session()
                .then(|| (i32::try_from(SESSION_FIELD).expect("small"), Type::String));
            assert_eq!(is_first, wanted, "{}", rpc.name);
            // What comes in several messages may name another session in each.
            assert!(!rpc.served.names_a_session() || !method.client_streaming(), "{}", rpc.name);
        }
        assert_eq!(of("/sessionpool.v1.SessionPoolService/Query").map(|it| it.name), Some("Query"));
        assert_eq!(of("/grpc.health.v1.Health/Check"), None);
    }
}
