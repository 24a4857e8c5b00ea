//! One who serves tools, as a test sees it.

use session_pool::proto::{
    InputMedia, RegisterTools, ServeToolsRequest, ServeToolsResponse, Tool, ToolCall, ToolContent,
    ToolProgress, ToolResult, ToolSessions, serve_tools_request::Message,
    serve_tools_response::Message as Told, tool_content::Block,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// The stream of one who serves tools. Dropped, it goes away.
pub struct Backend {
    requests: mpsc::Sender<ServeToolsRequest>,
    responses: Streaming<ServeToolsResponse>,
}

/// An offer of tools to all sessions.
pub fn offer(server: &str, tools: &[&str]) -> RegisterTools {
    let tool = |name: &&str| Tool {
        name: (*name).to_owned(),
        description: "A tool of a test".to_owned(),
        input_schema_json: r#"{"type": "object", "properties": {"q": {"type": "string"}}}"#.into(),
        annotations_json: r#"{"readOnlyHint": true}"#.into(),
    };
    RegisterTools {
        server: server.to_owned(),
        tools: tools.iter().map(tool).collect(),
        sessions: Some(ToolSessions { all: true, ids: Vec::new() }),
    }
}

/// An answer that is a text.
pub fn words(text: &str) -> Vec<Block> {
    vec![Block::Text(text.to_owned())]
}

/// An image of one pixel.
pub fn pixel() -> Block {
    const PNG: &[u8] =
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\
        \x89\0\0\0\rIDATx\xdac\xfc\xcfP\x0f\0\x03\x86\x01\x80Z4}k\0\0\0\0IEND\xaeB`\x82";
    Block::Image(InputMedia { media_type: "image/png".to_owned(), data: PNG.to_vec() })
}

impl Backend {
    /// Opens a stream by `open`, which is the rpc of some client.
    pub async fn open<F>(
        open: impl FnOnce(ReceiverStream<ServeToolsRequest>) -> F,
    ) -> Result<Self, Status>
    where
        F: Future<Output = Result<tonic::Response<Streaming<ServeToolsResponse>>, Status>>,
    {
        let (requests, stream) = mpsc::channel(8);
        let responses = open(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// Offers tools, and waits until they are on offer.
    pub async fn register(mut self, register: RegisterTools) -> Result<Self, Status> {
        self.say(Message::Register(register)).await;
        match self.told().await? {
            Told::Registered(registered) => assert!(registered.call_timeout.is_some()),
            other => panic!("not registered: {other:?}"),
        }
        Ok(self)
    }

    pub async fn say(&self, message: Message) {
        // A stream that has ended says so to whoever reads it.
        self.requests.send(ServeToolsRequest { message: Some(message) }).await.ok();
    }

    /// What it is told next.
    pub async fn told(&mut self) -> Result<Told, Status> {
        let response = self.responses.message().await?;
        Ok(response.and_then(|response| response.message).expect("the stream goes on"))
    }

    /// The next call.
    pub async fn call(&mut self) -> ToolCall {
        match self.told().await.expect("the stream goes on") {
            Told::Call(call) => call,
            other => panic!("no call: {other:?}"),
        }
    }

    /// The reason for which a call is cancelled.
    pub async fn cancelled(&mut self, call: &ToolCall) -> String {
        match self.told().await.expect("the stream goes on") {
            Told::Cancel(cancel) if cancel.call_id == call.call_id => cancel.reason,
            other => panic!("not cancelled: {other:?}"),
        }
    }

    pub async fn answer(&self, call: &ToolCall, blocks: Vec<Block>, is_error: bool) {
        let content = blocks.into_iter().map(|block| ToolContent { block: Some(block) }).collect();
        let call_id = call.call_id.clone();
        self.say(Message::Result(ToolResult { call_id, content, is_error })).await;
    }

    pub async fn progress(&self, call: &ToolCall) {
        let call_id = call.call_id.clone();
        let message = "half".to_owned();
        let progress = ToolProgress { call_id, progress: 1.0, total: Some(2.0), message };
        self.say(Message::Progress(progress)).await;
    }
}
