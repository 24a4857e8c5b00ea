//! The arrows of the crate's map (`src/lib.rs`) hold: no module names one above it, the
//! generated types stay at the edge, and no file grows past what can be read.

#[path = "architecture/circles.rs"]
mod circles;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What each module may name of the crate. `server` and `lib` put everything together;
/// `internals` hands on to tests what is private.
const ALLOWED: [(&str, &[&str]); 28] = [
    ("domain", &[]),
    ("budget", &["domain"]),
    ("os", &[]),
    ("tasks", &[]),
    ("policy", &["domain"]),
    ("config", &["os", "policy"]),
    ("telemetry", &["config"]),
    ("access", &["config", "domain", "os", "tasks"]),
    ("audit", &["access", "domain", "measures", "telemetry"]),
    ("transport", &["tasks", "telemetry"]),
    ("tools", &["budget", "domain"]),
    ("cli", &["domain", "os", "tasks", "tools"]),
    ("counters", &["domain"]),
    ("measures", &["domain"]),
    ("store", &["counters", "domain", "os", "tasks"]),
    ("tenant", &["counters", "domain", "measures"]),
    ("traces", &["measures", "os", "tasks", "telemetry"]),
    ("turn", &["budget", "counters", "domain", "tasks", "traces"]),
    (
        "gateway",
        &["audit", "cli", "domain", "measures", "os", "policy", "tasks", "telemetry", "transport"],
    ),
    ("supply", &["cli", "domain", "gateway", "os", "policy", "tasks", "tools"]),
    (
        "session",
        &[
            "budget",
            "cli",
            "counters",
            "domain",
            "measures",
            "store",
            "supply",
            "tasks",
            "telemetry",
            "tenant",
            "test_support",
            "tools",
            "traces",
            "turn",
        ],
    ),
    (
        "pool",
        &[
            "budget",
            "counters",
            "domain",
            "measures",
            "session",
            "store",
            "supply",
            "tasks",
            "telemetry",
            "tenant",
            "test_support",
            "tools",
            "traces",
            "turn",
        ],
    ),
    // Of the tests of sessions and of the pool alone.
    (
        "test_support",
        &["cli", "counters", "domain", "session", "store", "supply", "tasks", "traces", "turn"],
    ),
    (
        "rpc",
        &[
            "access",
            "audit",
            "budget",
            "cli",
            "counters",
            "domain",
            "measures",
            "policy",
            "pool",
            "proto",
            "session",
            "store",
            "tasks",
            "telemetry",
            "tenant",
            "tools",
            "traces",
            "transport",
            "turn",
        ],
    ),
    // The generated types are of its tests alone.
    (
        "cluster",
        &[
            "access",
            "audit",
            "domain",
            "pool",
            "proto",
            "rpc",
            "tasks",
            "telemetry",
            "tenant",
            "traces",
        ],
    ),
    ("health", &["proto"]),
    ("client", &["config", "domain", "os", "proto"]),
    ("proto", &[]),
];

/// Lines of a file.
const LONGEST_FILE: usize = 400;

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The code of a file, without comments and without the module of its tests.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    code.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The top-level module of a file below `src`.
fn module_of(file: &Path, src: &Path) -> String {
    let relative = file.strip_prefix(src).expect("below src");
    let first = relative.components().next().expect("a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The top-level modules that a file names by `crate::` or `session_pool::`.
fn named_in(text: &str) -> BTreeSet<String> {
    named_after("crate::", text)
}

/// The names that follow a prefix of paths, alone or in the braces of a `use`.
fn named_after(prefix: &str, text: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, _) in text.match_indices(prefix) {
        let rest = &text[at + prefix.len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            // Inside the braces of a `use`, top-level names follow `{` or `,` at depth 1.
            Some(group) => top_level_names(group),
            None => vec![rest],
        };
        for name in names {
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            named.insert(name[..end.unwrap_or(name.len())].to_owned());
        }
    }
    named.remove("");
    named
}

fn top_level_names(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (1, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || depth == 0 {
            names.push(group[start..at].trim());
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    names
}

#[test]
fn no_module_names_one_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in source_files(&src) {
        let module = module_of(&file, &src);
        if ["lib", "main", "server", "internals"].contains(&module.as_str()) {
            continue;
        }
        let (_, allowed) = ALLOWED
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{module} has no place in the map"));
        let text = fs::read_to_string(&file).expect("readable");
        for named in named_in(&text) {
            if named != module && !allowed.contains(&named.as_str()) {
                wrong.push(format!("{} names {named}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What nobody outside needs is private: the compiler finds what nobody uses of it.
#[test]
fn the_program_and_its_callers_see_four_modules() {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = fs::read_to_string(lib).expect("readable");
    let public: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("pub mod ")).collect();
    assert_eq!(public, ["client;", "config;", "internals;", "proto;", "server;"]);
    assert!(text.contains("#[cfg(feature = \"test-tools\")]\n#[doc(hidden)]\npub mod internals;"));
}

/// The names that each file of a folder takes from its siblings. Names that the front page hands
/// on would hide who knows whom.
fn known_by_siblings(folder: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    for file in source_files(folder) {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        if file.parent() == Some(folder) && name != "mod" {
            let text = fs::read_to_string(&file).expect("readable");
            known.insert(name, named_after("super::", &code_of(&text)));
        }
    }
    for (file, names) in &known {
        let hidden: Vec<_> = names.iter().filter(|name| !known.contains_key(*name)).collect();
        assert!(hidden.is_empty(), "{file} names {hidden:?} without their file");
    }
    known
}

#[track_caller]
fn assert_no_two_know_each_other(mut known: BTreeMap<String, BTreeSet<String>>) {
    // Whoever knows nobody is taken away, until nobody is left but those in a circle.
    while let Some(lowest) =
        known.iter().find(|(_, names)| names.is_empty()).map(|(file, _)| file.clone())
    {
        known.remove(&lowest);
        for names in known.values_mut() {
            names.remove(&lowest);
        }
    }
    assert!(known.is_empty(), "files that know each other, or stand on such: {known:?}");
}

/// A session was one object cut into files that all knew each other. What its task hands on,
/// and the owners of its parts, stand below the task, and none of them knows a phase; phases do
/// not know each other.
#[test]
fn no_two_files_of_a_session_know_each_other() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/session");
    // A file that names `phase` fails here: it is a folder.
    assert_no_two_know_each_other(known_by_siblings(&folder));
    assert_no_two_know_each_other(known_by_siblings(&folder.join("phase")));
    for file in source_files(&folder) {
        let text = code_of(&fs::read_to_string(&file).expect("readable"));
        assert!(!text.contains("session::phase"), "{} names a phase", file.display());
    }
}

/// What Claude's frames mean is read by `cli` (`cli/turn.rs`): a session acts on meanings.
#[test]
fn no_session_interprets_a_frame() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/session");
    for file in source_files(&folder) {
        let code = code_of(&fs::read_to_string(&file).expect("readable"));
        for word in ["FrameKind", "terminal_reason", "prompt_uuids", "serde_json"] {
            let is_test = file.components().any(|part| part.as_os_str() == "tests");
            assert!(is_test || !code.contains(word), "{} names {word}", file.display());
        }
    }
}

/// Files that import each other can only be understood together.
#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let circles = circles::Modules::read(&src).circles();
    assert!(circles.is_empty(), "{circles:?}");
}

/// The page that says where things are is believed.
#[test]
fn every_file_that_the_architecture_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).expect("the page");
    let named = page.split('`').skip(1).step_by(2).filter(|name| {
        let is_path = name.contains('/') && !name.contains(|c: char| " *[".contains(c));
        is_path && name.ends_with(".rs")
    });
    let gone: Vec<_> = named
        .filter(|name| !root.join("src").join(name).exists() && !root.join(name).exists())
        .collect();
    assert!(gone.is_empty(), "not there: {gone:?}");
}

#[test]
fn no_file_is_too_long_to_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["src", "benches"].iter().flat_map(|folder| source_files(&root.join(folder))) {
        let lines = fs::read_to_string(&file).expect("readable").lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines", file.display());
    }
}

#[test]
fn names_are_found_in_groups_and_alone() {
    let text = "use crate::{cli::{a, b}, ids};\nlet x = crate::turn::Y;";
    let named: Vec<_> = named_in(text).into_iter().collect();
    assert_eq!(named, ["cli", "ids", "turn"]);
}

const LOG_MACROS: [&str; 5] = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];

/// The arguments of a macro call, up to the parenthesis that ends it.
fn arguments(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    panic!("a call without an end: {text:.60}");
}

/// The events that a file logs: level and name, which is the last literal of the call.
fn events_in(text: &str) -> Vec<(String, String)> {
    let mut events = Vec::new();
    for call in LOG_MACROS {
        for (at, _) in text.match_indices(call) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
                continue;
            }
            let level = call.trim_end_matches("!(").to_uppercase();
            let last = arguments(&text[at + call.len()..]).trim().trim_end_matches(',');
            let name = last.strip_suffix('"').and_then(|rest| rest.rsplit('"').next());
            events.push((name.unwrap_or(last).to_owned(), level));
        }
    }
    events
}

#[test]
fn f3_the_table_of_log_events_and_the_code_say_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut logged = BTreeSet::new();
    for file in source_files(&root.join("src")) {
        let text = fs::read_to_string(&file).expect("UTF-8");
        // Modules of tests are the last of a file, or files of their own.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        if !file.components().any(|part| part.as_os_str() == "tests") {
            logged.extend(events_in(code));
        }
    }
    let names = |(name, _): &&(String, String)| {
        name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let unnamed: Vec<_> = logged.iter().filter(names).collect();
    assert!(unnamed.is_empty(), "events without a name: {unnamed:?}");
    let table = fs::read_to_string(root.join("docs/log-events.md")).expect("the table");
    let listed: BTreeSet<(String, String)> = table
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.strip_suffix('`')?;
            Some((name.to_owned(), cells.next()?.to_owned()))
        })
        .collect();
    let missing: Vec<_> = logged.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&logged).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/log-events.md: not listed {missing:?}; not logged {stale:?}"
    );
}
