//! Rules of the operator hold in both sandboxes, on every version that is tested.

use std::path::PathBuf;

use session_pool::proto::{
    PromptDeny, RespondRequest, SessionOptions, respond_request::Decision, turn_event::Kind,
};

use crate::{
    bed::{Bed, MODES},
    support::service::query_with,
};

const VERSIONS: [&str; 3] = ["2.1.110", "2.1.197", "2.1.332"];

const RULES: &str = "[{ decision = \"allow\", rule = \"Bash(mkfifo:*)\" }, \
                      { decision = \"deny\", rule = \"Bash(ln:*)\", tenant = \"default\" }, \
                      { decision = \"ask\", rule = \"Bash(mknod:*)\" }]";

/// What a session that allows itself everything comes to make, and how often it is asked.
async fn made(bed: &Bed, command: &str, name: &str) -> (bool, usize) {
    // One by the rules alone, and one that would go past them.
    let allowed_tools = match name {
        "allowed" => Vec::new(),
        _ => vec!["Bash".to_owned()],
    };
    let options = SessionOptions { allowed_tools, ..SessionOptions::default() };
    let mut turn = bed.daemon.open(query_with(name, &format!("[[bash {command}]]"), options)).await;
    let (mut asked, mut folder) = (0, PathBuf::new());
    while let Some(event) = turn.next().await {
        match event.kind {
            Some(Kind::System(system)) => {
                folder = system.init.map_or(folder, |init| init.cwd.into());
            }
            Some(Kind::Prompt(prompt)) => {
                asked += 1;
                let deny = PromptDeny { message: "no".into(), interrupt: false };
                let request = RespondRequest {
                    session_id: name.into(),
                    prompt_id: prompt.prompt_id,
                    decision: Some(Decision::Deny(deny)),
                };
                bed.daemon.client.clone().respond(request).await.expect("it waits");
            }
            _ => {}
        }
    }
    assert!(!turn.result().is_error, "{:?}", turn.result());
    (folder.join(name).symlink_metadata().is_ok(), asked)
}

#[tokio::test]
async fn rules_of_the_operator_hold_in_both_sandboxes() {
    for version in VERSIONS {
        for mode in MODES {
            let bed = Bed::real(mode, version, &[("POLICY__RULE", RULES)]).await;
            let place = format!("{version} in {mode}");
            assert_eq!(made(&bed, "mkfifo allowed", "allowed").await, (true, 0), "{place}");
            assert_eq!(made(&bed, "ln -s x denied", "denied").await, (false, 0), "{place}");
            assert_eq!(made(&bed, "mknod asked p", "asked").await, (false, 1), "{place}");
            bed.stop().await;
        }
    }
}
