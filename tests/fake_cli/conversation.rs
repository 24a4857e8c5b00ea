//! What is remembered of a conversation: the earlier prompts, and the transcript entries on their way to the mirror
//! and to disk. Files are [`crate::transcript`]'s business, frames the turn's.

use std::path::PathBuf;

use crate::args::Args;
use crate::frames;
use crate::ids;
use crate::json::{Json, Object, object};
use crate::result;
use crate::transcript::{self, Loaded};

/// Why a process cannot have the conversation it was started for: stderr, and stdout when the CLI prints a result too.
pub struct Unavailable {
    pub stderr: String,
    pub result: Option<Json>,
}

impl Unavailable {
    fn resume(session: &str, stderr: String) -> Self {
        let result = Some(result::cannot_resume(session, &stderr));
        Self { stderr, result }
    }
}

pub struct Conversation {
    pub session: String,
    pub cwd: String,
    pub prompts: Vec<String>,
    /// The uuids of the messages of the conversation that was resumed: the CLI takes none of them twice.
    pub known: Vec<String>,
    folder: PathBuf,
    keep_file: bool,
    /// The entry that the next one comes after.
    leaf: Option<String>,
    unmirrored: Vec<Json>,
    unsaved: Vec<Json>,
}

impl Conversation {
    /// Opens the conversation that the flags name; also what it has cost so far, in millionths of a dollar.
    pub fn open(args: &Args) -> Result<(Self, u64), Unavailable> {
        let cwd = std::env::current_dir().unwrap_or_default();
        let mut conversation = Self {
            session: args.session_id.clone().unwrap_or_else(ids::uuid),
            cwd: cwd.to_string_lossy().into_owned(),
            prompts: Vec::new(),
            known: Vec::new(),
            folder: transcript::folder(&cwd),
            keep_file: !args.no_persistence,
            leaf: None,
            unmirrored: Vec::new(),
            unsaved: Vec::new(),
        };
        if args.session_id.is_some() && conversation.path().exists() {
            let stderr = format!("Error: Session ID {} is already in use.", conversation.session);
            return Err(Unavailable { stderr, result: None });
        }
        let Some(resume) = &args.resume else {
            return Ok((conversation, 0));
        };
        let loaded = conversation.find(resume)?;
        let cost = loaded.cost_micro_dollars;
        conversation.continue_from(loaded, args.fork_session);
        Ok((conversation, cost))
    }

    fn find(&self, resume: &str) -> Result<Loaded, Unavailable> {
        let path = if resume.ends_with(".jsonl") {
            PathBuf::from(resume)
        } else if ids::is_uuid(resume) {
            self.folder.join(format!("{resume}.jsonl"))
        } else {
            let stderr = format!(
                "Error: --resume requires a valid session ID or session title when used with --print. Usage: claude -p --resume <session-id|title>. Provided value \"{resume}\" is not a UUID and does not match any session title."
            );
            return Err(Unavailable::resume(&self.session, stderr));
        };
        transcript::load(&path).ok_or_else(|| {
            Unavailable::resume(resume, format!("No conversation found with session ID: {resume}"))
        })
    }

    /// Goes on where the loaded one ended; a fork takes a copy of its entries under an id of its own.
    fn continue_from(&mut self, loaded: Loaded, fork: bool) {
        self.prompts = loaded.prompts();
        self.known = loaded.uuids();
        self.leaf = loaded.leaf().map(str::to_owned);
        if !fork {
            self.session = loaded.session;
            return;
        }
        for mut entry in loaded.chain {
            entry["sessionId"] = self.session.clone().into();
            self.add(Json(entry.to_string()));
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.jsonl", self.session))
    }

    pub fn memory_path(&self) -> String {
        format!("{}/memory/", self.folder.display())
    }

    /// Starts over under a new id, as `/clear` does.
    pub fn clear(&mut self) {
        self.session = ids::uuid();
        self.prompts.clear();
        self.leaf = None;
    }

    fn add(&mut self, entry: Json) {
        self.unmirrored.push(entry.clone());
        self.unsaved.push(entry);
    }

    /// Records a prompt: it was queued, it was taken up, the user said it.
    pub fn add_prompt(&mut self, uuid: &str, prompt: &str, permission_mode: &str) {
        let mut queued = self.queue_operation("enqueue");
        self.add(queued.put("content", prompt).finish());
        let dequeued = self.queue_operation("dequeue").finish();
        self.add(dequeued);
        let mut entry = self.entry("user", uuid);
        entry
            .put("promptId", &ids::uuid())
            .put("message", &object! { "role": "user", "content": prompt })
            .put("permissionMode", permission_mode)
            .put("promptSource", "sdk");
        self.add(entry.finish());
    }

    /// Records a message that a running turn has taken up.
    pub fn add_taken_up(&mut self, uuid: Option<&str>, words: &str) {
        let mut queued = self.queue_operation("enqueue");
        self.add(queued.put("content", words).finish());
        let removed = self.queue_operation("remove").finish();
        self.add(removed);
        let attachment = object! { "type": "queued_command", "prompt": words, "source_uuid": uuid };
        let mut entry = self.entry("attachment", &ids::uuid());
        entry.put("attachment", &attachment);
        self.add(entry.finish());
    }

    fn queue_operation(&self, operation: &str) -> Object {
        let mut entry = Object::new();
        entry
            .put("type", "queue-operation")
            .put("operation", operation)
            .put("timestamp", &ids::timestamp())
            .put("sessionId", &self.session);
        entry
    }

    /// Records what the model or a tool said: `assistant` or `user`.
    pub fn add_message(&mut self, kind: &str, uuid: &str, message: &Json) {
        let mut entry = self.entry(kind, uuid);
        entry.put("message", message);
        self.add(entry.finish());
    }

    /// An entry of the tree of messages; the next one will come after it.
    fn entry(&mut self, kind: &str, uuid: &str) -> Object {
        let parent = self.leaf.replace(uuid.to_owned());
        let mut entry = Object::new();
        entry
            .put("parentUuid", &parent)
            .put("isSidechain", &false)
            .put("type", kind)
            .put("uuid", uuid)
            .put("timestamp", &ids::timestamp())
            .put("userType", "external")
            .put("entrypoint", "sdk-cli")
            .put("cwd", &self.cwd)
            .put("sessionId", &self.session)
            .put("version", frames::VERSION)
            .put("gitBranch", "HEAD");
        entry
    }

    /// Records what the CLI notes when a conversation rests.
    pub fn add_last_prompt(&mut self) {
        let entry = object! {
            "type": "last-prompt",
            "lastPrompt": self.prompts.last().cloned().unwrap_or_default(),
            "leafUuid": self.leaf,
            "sessionId": self.session,
        };
        self.add(entry);
    }

    /// Records what the process spent, which a resumed conversation goes on counting from.
    pub fn add_cost(&mut self, micro_dollars: u64) {
        let entry = object! {
            "type": "cost-state",
            "sessionId": self.session,
            "totalCostUSD": result::dollars(micro_dollars),
        };
        self.add(entry);
    }

    /// The frame that mirrors what was recorded since the last one, if anything was.
    pub fn take_mirror(&mut self) -> Option<Json> {
        let entries = std::mem::take(&mut self.unmirrored);
        let path = self.path();
        (!entries.is_empty()).then(|| frames::transcript_mirror(&path.to_string_lossy(), &entries))
    }

    /// Writes what was recorded to the transcript file.
    pub fn save(&mut self) {
        let entries = std::mem::take(&mut self.unsaved);
        if self.keep_file
            && !entries.is_empty()
            && let Err(error) = transcript::append(&self.path(), &entries)
        {
            eprintln!("fake-claude: cannot write the transcript: {error}");
        }
    }
}
