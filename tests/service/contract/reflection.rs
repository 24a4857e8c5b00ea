//! Reflection, in both versions: what grpcurl sees.

use tokio_stream::once;
use tonic_reflection::pb;

use crate::support::service::Service;

const NAMES: [&str; 2] = ["grpc.health.v1.Health", "sessionpool.v1.SessionPoolService"];

macro_rules! listed {
    ($version:ident, $channel:expr) => {{
        use pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let mut client = ServerReflectionClient::new($channel);
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let stream = client.server_reflection_info(once(request)).await.expect("answered");
        let response = stream.into_inner().message().await.expect("answered").expect("one");
        let Some(MessageResponse::ListServicesResponse(list)) = response.message_response else {
            panic!("not a list: {response:?}");
        };
        let symbol = "sessionpool.v1.QueryRequest".to_owned();
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol(symbol)),
        };
        let stream = client.server_reflection_info(once(request)).await.expect("answered");
        let response = stream.into_inner().message().await.expect("answered").expect("one");
        assert!(
            matches!(response.message_response, Some(MessageResponse::FileDescriptorResponse(_))),
            "{response:?}"
        );
        let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
        names.sort();
        names
    }};
}

#[tokio::test]
async fn reflection_answers_in_v1_and_v1alpha() {
    let service = Service::start(|_| {}).await;
    let v1 = listed!(v1, service.channel().await);
    let v1alpha = listed!(v1alpha, service.channel().await);
    for names in [v1, v1alpha] {
        for wanted in NAMES {
            assert!(names.iter().any(|name| name == wanted), "{names:?}");
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    use pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};
    let service = Service::start(|config| config.server.reflection = false).await;
    let mut client = ServerReflectionClient::new(service.channel().await);
    let answered = client.server_reflection_info(once(ServerReflectionRequest::default())).await;
    assert_eq!(answered.expect_err("off").code(), tonic::Code::Unimplemented);
    service.stop().await;
}
