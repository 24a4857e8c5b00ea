//! `policy.max_workspace_bytes` and its like: a session that fills the disk, has too many
//! processes or opens too many files is bounded and told why, and no other notices. Agents are the
//! real CLI's Bash tool.

use session_pool::proto::GetStatsRequest;
use tonic::Code;

use crate::{
    bed::{Bed, MODES},
    support::failure,
    view::{bash, bash_turn},
};

const VERSION: &str = "2.1.332";
const LIMIT: u64 = 24 << 20;

async fn bed(mode: &str) -> Bed {
    Bed::real(mode, VERSION, &[("POLICY__MAX_WORKSPACE_BYTES", "24 MiB")]).await
}

/// Runs a command that holds too much until its session is ended.
async fn is_ended(bed: &Bed, session: &str, command: &str) {
    let turn = bash_turn(bed, session, &format!("{command}; sleep {}", bed.unique)).await;
    let metadata = failure(turn.error(), Code::ResourceExhausted, "WORKSPACE_LIMIT_EXCEEDED");
    assert_eq!(metadata["limit"], LIMIT.to_string(), "{command}");
    let used: u64 = metadata["used"].parse().expect("a number");
    assert!(used > LIMIT, "{command}: {used}");
    bed.gone_of(&format!("sleep {}", bed.unique)).await;
}

#[tokio::test]
async fn a_session_that_fills_the_disk_ends_with_the_reason_and_may_tidy_up() {
    for mode in MODES {
        let bed = bed(mode).await;
        bash(&bed, "b", "head -c 4M /dev/zero >mine").await;
        is_ended(&bed, "a", "for i in 1 2 3 4 5; do head -c 8M /dev/zero >f$i; done").await;
        assert_eq!(bed.daemon.logged("workspace_limit").len(), 1, "{mode}");
        let said = bash(&bed, "a", "rm f1 f2 f3 && head -c 1M /dev/zero >new && ls").await;
        assert!(said.contains("new") && said.contains("ended with 0"), "{mode}: {said}");
        let said = bash(&bed, "b", "ls").await;
        assert!(said.contains("mine"), "{mode}: {said}");
        bed.stop().await;
    }
}

#[tokio::test]
async fn what_is_hidden_from_a_look_at_the_folder_counts_too() {
    let unlinked = "exec 3>x 4>y; rm x y; head -c 20M /dev/zero >&3; head -c 20M /dev/zero >&4";
    let closed = "mkdir d; head -c 20M /dev/zero >d/x; head -c 20M /dev/zero >d/y; chmod 0 d";
    let names = "mkdir d; cd d; seq 40000 | xargs touch";
    let home = "head -c 20M /dev/zero >$HOME/.x; head -c 20M /dev/zero >$HOME/.y";
    let reserved = "fallocate -l 20M x; fallocate -l 20M y";
    let bed = bed("bubblewrap").await;
    for (number, way) in [unlinked, closed, names, home, reserved].into_iter().enumerate() {
        is_ended(&bed, &format!("s{number}"), way).await;
    }
    bed.stop().await;
}

#[tokio::test]
async fn the_temporary_directory_of_a_process_counts_and_goes_with_it() {
    let bed = bed("process-tree").await;
    let fill = "head -c 20M /dev/zero >$TMPDIR/x; head -c 20M /dev/zero >$TMPDIR/y";
    is_ended(&bed, "a", fill).await;
    let said = bash(&bed, "a", "ls -A $TMPDIR; find $(dirname $TMPDIR) -name x").await;
    assert!(said.contains("ended with 0") && !said.contains("/x\\n"), "{said}");
    bed.stop().await;
}

#[tokio::test]
async fn a_single_file_and_open_files_are_bounded_by_the_kernel() {
    for mode in MODES {
        let settings = [("POLICY__MAX_WORKSPACE_BYTES", "24 MiB"), ("CLI__MAX_OPEN_FILES", "300")];
        let bed = Bed::real(mode, VERSION, &settings).await;
        let said = bash(&bed, "a", "fallocate -l 25M x; ulimit -Hn; ulimit -Hc").await;
        assert!(
            said.contains("File size limit exceeded") && said.contains("\\n300\\n0\\n"),
            "{said}"
        );
        let open = "i=3; while eval \"exec $i</dev/null\"; do i=$((i+1)); done; echo at $i";
        let said = bash(&bed, "a", &format!("bash -c '{open}'")).await;
        assert!(said.contains("Too many open files"), "{mode}: {said}");
        let stats = bed.daemon.client.clone().get_stats(GetStatsRequest::default()).await;
        let told = stats.expect("answered").into_inner().sandbox_attempts.join("\n");
        for line in ["files of a session: ended by the service over 25165824", "open at most 300"] {
            assert!(told.contains(line), "{told}");
        }
        bed.stop().await;
    }
}

#[tokio::test]
async fn processes_are_bounded_without_their_threads() {
    let bed =
        Bed::real("bubblewrap", VERSION, &[("POLICY__MAX_PROCESSES_PER_SESSION", "40")]).await;
    // A CLI has more threads than that.
    let said = bash(&bed, "a", "echo within").await;
    assert!(said.contains("within"), "{said}");
    let many = format!("for i in $(seq 60); do sleep {} & done; wait", bed.unique);
    let turn = bash_turn(&bed, "a", &many).await;
    failure(turn.error(), Code::ResourceExhausted, "TASK_LIMIT_EXCEEDED");
    let message = turn.error().message().to_owned();
    assert!(message.contains("(policy.max_processes_per_session)"), "{message}");
    bed.stop().await;
}
