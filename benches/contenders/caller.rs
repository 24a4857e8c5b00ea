//! A caller that takes messages by their size, so that what is measured is not the caller.

use session_pool::proto::QueryRequest;
use tonic::{
    Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// Bytes of a message at most: events of the service travel in parts, but those of gRPC alone do not.
const LARGEST: usize = 64 << 20;
const QUERY: &str = "/sessionpool.v1.SessionPoolService/Query";

/// Starts a turn.
pub async fn open(
    channel: &Channel,
    request: QueryRequest,
) -> Result<tonic::Streaming<usize>, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(LARGEST);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(QUERY);
    let response = grpc.server_streaming(tonic::Request::new(request), path, Sizes).await?;
    Ok(response.into_inner())
}

/// Runs a turn to its end.
#[allow(dead_code, reason = "not every benchmark does")]
pub async fn run_turn(channel: &Channel, request: QueryRequest) -> Result<(), Status> {
    let mut stream = open(channel, request).await?;
    while stream.message().await?.is_some() {}
    Ok(())
}

/// A codec that decodes nothing.
#[derive(Debug, Clone, Copy)]
struct Sizes;

impl Codec for Sizes {
    type Encode = QueryRequest;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Sizes {
    type Item = QueryRequest;
    type Error = Status;

    fn encode(&mut self, item: QueryRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::Message::encode(&item, buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Sizes {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        use prost::bytes::Buf as _;
        let size = buffer.remaining();
        buffer.advance(size);
        Ok(Some(size))
    }
}
