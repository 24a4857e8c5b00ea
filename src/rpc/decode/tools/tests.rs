use super::*;
use crate::proto::{serve_tools_request::Message, tool_content::Block};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0";

fn first(register: proto::RegisterTools) -> Result<Offer, String> {
    let message = Some(Message::Register(register));
    let decoded = offer(Some(proto::ServeToolsRequest { message }));
    decoded.map_err(|status| status.message().to_owned())
}

fn tool(name: &str, schema: &str) -> proto::Tool {
    let (name, input_schema_json) = (name.to_owned(), schema.to_owned());
    proto::Tool { name, input_schema_json, ..proto::Tool::default() }
}

fn shop(tools: Vec<proto::Tool>) -> proto::RegisterTools {
    let sessions = Some(proto::ToolSessions { all: true, ids: Vec::new() });
    proto::RegisterTools { server: "shop".into(), tools, sessions }
}

fn result(content: Vec<Block>) -> Result<Answer, String> {
    let content =
        content.into_iter().map(|block| proto::ToolContent { block: Some(block) }).collect();
    let result = proto::ToolResult { call_id: "7".into(), content, is_error: true };
    match said(proto::ServeToolsRequest { message: Some(Message::Result(result)) }) {
        Ok(Said::Answer(7, answer)) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_offer_within_its_bounds_is_taken_as_it_is() {
    let schema = r#"{"type": "object", "properties": {"n": {"minimum": 1.50}}}"#;
    let ids = vec!["a".into()];
    let sessions = Some(proto::ToolSessions { all: false, ids });
    let register =
        proto::RegisterTools { sessions, ..shop(vec![tool("look", schema), tool("buy", "")]) };
    let Offer { server, tools, sessions } = first(register).expect("taken");
    assert_eq!(server, "shop");
    let schemas: Vec<_> = tools.iter().map(|tool| tool.input_schema.get()).collect();
    assert_eq!(schemas, [schema, NO_ARGUMENTS]);
    assert_eq!(sessions, Served::Only([SessionId::parse("a").expect("a name")].into()));
}

#[test]
fn an_offer_out_of_its_bounds_is_refused_by_field_value_and_bound() {
    let with = |change: &dyn Fn(&mut proto::RegisterTools)| {
        let mut register = shop(vec![tool("look", "")]);
        change(&mut register);
        first(register).expect_err("refused")
    };
    let says = |problem: String, wanted: &str| assert!(problem.contains(wanted), "{problem}");
    says(with(&|it| it.server = "a__b".into()), "register.server must not contain __");
    let long = "x".repeat(49);
    says(with(&|it| it.server.clone_from(&long)), "must have 1 to 48 characters of A-Za-z0-9_-");
    says(with(&|it| it.tools.clear()), "register.tools must have 1 to 128 entries, has 0");
    let many = vec![tool("x", ""); 129];
    says(with(&|it| it.tools.clone_from(&many)), "must have 1 to 128 entries, has 129");
    says(with(&|it| it.tools.push(tool("look", ""))), "register.tools[1].name must not be named");
    says(with(&|it| it.tools[0].name = "a b".into()), "register.tools[0].name must have 1 to 64");
    for (schema, problem) in [
        ("[]", "must be a JSON object"),
        ("{}", "must have the type \"object\""),
        (r#"{"type":"object","properties":1}"#, "must have an object as its properties"),
        (r#"{"type":"object","required":[1]}"#, "must have an array of strings as required"),
    ] {
        let changed = with(&|it| it.tools[0].input_schema_json = schema.into());
        says(changed, &format!("register.tools[0].input_schema_json {problem}"));
    }
    let hint = r#"{"readOnlyHint": 1}"#;
    says(with(&|it| it.tools[0].annotations_json = hint.into()), "true or false as hints");
    let large = vec![proto::Tool { description: "x".repeat(16 << 10), ..tool("t", "") }; 65];
    says(with(&|it| it.tools.clone_from(&large)), "must have at most 1048576 bytes in all, has ");
    says(with(&|it| it.sessions = None), "register.sessions must be set");
    let both = proto::ToolSessions { all: true, ids: vec!["a".into()] };
    says(with(&|it| it.sessions = Some(both.clone())), "must have either all or ids");
    let none = offer(None).expect_err("nothing was offered");
    assert!(none.message().contains("must be register in the first request"), "{none}");
}

#[test]
fn an_answer_is_what_the_model_is_told() {
    let png = proto::InputMedia { media_type: "image/png".into(), data: PNG.to_vec() };
    let answer = result(vec![
        Block::Text("found".into()),
        Block::Text(String::new()),
        Block::ValueJson(r#"{"n": 1.50}"#.into()),
        Block::Image(png.clone()),
    ]);
    let image = Content::Image { media_type: png.media_type, data: png.data.into() };
    let text = |text: &str| Content::Text(text.to_owned());
    let content = vec![text("found"), text(r#"{"n": 1.50}"#), image];
    assert_eq!(answer, Ok(Answer { content, is_error: true }));
    assert_eq!(result(Vec::new()), Ok(Answer { content: Vec::new(), is_error: true }));
}

#[test]
fn an_answer_out_of_its_bounds_is_refused_and_others_go_on() {
    let text = |size: usize| Block::Text("x".repeat(size));
    let image = proto::InputMedia { media_type: "image/png".into(), data: b"no".to_vec() };
    for (content, problem) in [
        (vec![text(1); 101], "result.content must have at most 100 blocks, has 101"),
        (
            vec![text(2 << 20), text((2 << 20) + 1)],
            "result.content must have at most 4194304 bytes in all, has 4194305",
        ),
        (vec![Block::ValueJson("{".into())], "result.content[0].value_json must be JSON"),
        (vec![Block::Image(image)], "result.content[0].image.data must be image/png"),
    ] {
        let refused = result(content).expect_err("refused");
        assert!(refused.contains(problem), "{refused}");
    }
}

#[test]
fn what_means_nothing_ends_the_stream() {
    let refused = |message| {
        let refused = said(proto::ServeToolsRequest { message }).expect_err("refused");
        refused.message().to_owned()
    };
    assert!(refused(None).contains("message must be result or progress"));
    let again = refused(Some(Message::Register(shop(Vec::new()))));
    assert!(again.contains("register must be in the first request only"), "{again}");
    let of_none = proto::ToolResult { call_id: "x".into(), ..proto::ToolResult::default() };
    let of_none = refused(Some(Message::Result(of_none)));
    assert!(
        of_none.contains("result.call_id must be the call_id of a call, is \"x\""),
        "{of_none}"
    );
    let endless = proto::ToolProgress {
        call_id: "1".into(),
        progress: f64::NAN,
        ..proto::ToolProgress::default()
    };
    assert!(refused(Some(Message::Progress(endless))).contains("progress.progress must be finite"));
}

#[test]
fn a_session_names_servers_each_once_and_none_that_it_configures() {
    let servers_of = |names: &[&str]| {
        let tool_servers = names.iter().map(|name| (*name).to_owned()).collect();
        let mcp = crate::domain::redacted::Redacted(r#"{"mcpServers":{"own":{}}}"#.to_owned());
        let options = Options { tool_servers, mcp_servers: Some(mcp), ..Options::default() };
        let mut check = Check::default();
        servers(&mut check, "options.tool_servers", &options);
        check.refused().map(|(_, problems)| problems).unwrap_or_default()
    };
    assert_eq!(servers_of(&["shop", "files"]), "");
    assert!(servers_of(&["shop", "shop"]).contains("must not be named before"));
    assert!(servers_of(&["own"]).contains("must not be a name in mcp_servers"));
    assert!(servers_of(&["a b"]).contains("must have 1 to 48 characters"));
    assert!(servers_of(&["x"; 17]).contains("must have at most 16 entries, has 17"));
}
