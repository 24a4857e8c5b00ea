//! Where a session's processes work and what they leave there. A session that was begun
//! on a spare has that spare's folder: its own name is a link to it, which every later
//! process follows, because the CLI keeps transcripts by the real path.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use crate::{
    cli::command::Folders,
    domain::ids::{SessionId, SessionKey, TenantId},
    os::confined::Folder,
};

/// Session ids up to this length name their folder as they are; longer ones would
/// make the CLI shorten the name of the transcript's folder.
const LONGEST_PLAIN_NAME: usize = 64;

/// What the names of spares' folders begin with; those of sessions do not.
const SPARE: &str = "p-";

/// The folders of one session.
pub fn of_session(state_dir: &Path, session: &SessionKey) -> Folders {
    let SessionKey { tenant, session } = session;
    of_tenant(state_dir, tenant, &session_folder(session))
}

/// The folders of a spare, whose own is new.
pub fn of_spare(state_dir: &Path, tenant: &TenantId) -> Folders {
    of_tenant(state_dir, tenant, &format!("{SPARE}{}", uuid::Uuid::new_v4()))
}

fn of_tenant(state_dir: &Path, tenant: &TenantId, work: &str) -> Folders {
    let tenant = state_dir.join("tenants").join(tenant_folder(tenant));
    Folders {
        work: tenant.join("work").join(work),
        config: tenant.join("claude"),
        home: tenant.join("home"),
        extra: Vec::new(),
    }
}

/// Makes the tenant's folders, which are the service's own.
pub fn make_tenants(folders: &mut Folders) -> io::Result<()> {
    [&mut folders.config, &mut folders.home].into_iter().try_for_each(make)
}

/// Makes a folder, only for the service's user, and turns its path into the one without
/// links: no agent can write to the folders that it lies in. An agent can take the permissions
/// of the folder itself away, without which no process would start in it again: they are
/// given back.
pub fn make(folder: &mut PathBuf) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&*folder)?;
    *folder = folder.canonicalize()?;
    let mut permissions = fs::metadata(&*folder)?.permissions();
    if permissions.mode() & 0o700 != 0o700 {
        permissions.set_mode(permissions.mode() | 0o700);
        fs::set_permissions(&*folder, permissions)?;
    }
    Ok(())
}

/// The folder itself, where a session's name for it may be a link to a spare's.
pub fn resolve(work: &Path) -> io::Result<PathBuf> {
    match fs::read_link(work) {
        Ok(target) => {
            let mut parts = target.components();
            let spare = match (parts.next(), parts.next()) {
                (Some(Component::Normal(name)), None) => {
                    name.to_str().is_some_and(|name| name.starts_with(SPARE))
                }
                _ => false,
            };
            if !spare {
                return Err(io::Error::other("the session's folder is a link to elsewhere"));
            }
            Ok(work.with_file_name(target))
        }
        // No link, or nothing at all.
        Err(_) => Ok(work.to_owned()),
    }
}

/// Makes a spare's folder that of a session; fails if the session has one already.
pub fn link(session: &Path, spare: &Path) -> io::Result<()> {
    let name = spare.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    symlink(name, session)
}

/// Removes a session's folder with all that is in it, and its name.
pub fn remove(work: &Path) -> io::Result<()> {
    let folder = resolve(work)?;
    remove_tree(&folder)?;
    // If it is a link, that is left.
    if folder == work { Ok(()) } else { remove_tree(work) }
}

/// Agents have filled it: it may be deep, and closed to its owner.
fn remove_tree(folder: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match Folder::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        parent => parent?.remove_tree(Path::new(name)),
    }
}

/// Removes the folders of spares that no session ever took. Not while there are spares.
pub fn sweep(state_dir: &Path) -> io::Result<()> {
    let tenants = match fs::read_dir(state_dir.join("tenants")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        tenants => tenants?,
    };
    for tenant in tenants {
        let Ok(entries) = fs::read_dir(tenant?.path().join("work")) else { continue };
        let paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|it| it.path()).collect();
        let taken: Vec<PathBuf> = paths
            .iter()
            .filter(|path| path.is_symlink())
            .filter_map(|path| resolve(path).ok())
            .collect();
        let is_spare = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(SPARE)) && !taken.contains(path)
        };
        paths.iter().filter(|path| is_spare(path)).try_for_each(|path| remove_tree(path))?;
    }
    Ok(())
}

/// Removes the work folders of sessions without a name that an earlier life of the service
/// left; `is_kept` says whether a session is known all the same, since callers may use such a
/// name, too. Not while there are sessions.
pub fn sweep_anonymous(state_dir: &Path, is_kept: impl Fn(&SessionKey) -> bool) -> io::Result<()> {
    for tenant in entries_of(&state_dir.join("tenants"))? {
        let Some(id) = tenant.file_name().and_then(|name| tenant_of(name.to_str()?)) else {
            continue;
        };
        for work in entries_of(&tenant.join("work"))? {
            let name = work.file_name().and_then(|name| name.to_str()?.strip_prefix("s-"));
            let session = name.and_then(|name| SessionId::parse(name).ok());
            let session = session.filter(SessionId::looks_anonymous);
            if session.is_some_and(|session| !is_kept(&SessionKey::new(id.clone(), session))) {
                remove(&work)?;
            }
        }
    }
    Ok(())
}

/// The paths in a folder; none if there is no such folder.
fn entries_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Whose folder has this name.
fn tenant_of(folder: &str) -> Option<TenantId> {
    TenantId::parse(folder.strip_prefix("dot:").unwrap_or(folder)).ok()
}

/// The name of a tenant's folder: its own, unless that means something to a file system.
fn tenant_folder(tenant: &TenantId) -> String {
    let name = tenant.as_str();
    // The second half keeps two tenants from sharing a folder.
    if name.starts_with('.') || name.starts_with("dot:") {
        return format!("dot:{name}");
    }
    name.to_owned()
}

/// The name of a session's folder: a prefix keeps `..` and hidden names harmless.
fn session_folder(session_id: &SessionId) -> String {
    let id = session_id.as_str();
    if id.len() <= LONGEST_PLAIN_NAME {
        return format!("s-{id}");
    }
    let digest = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, id.as_bytes());
    format!("h-{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_one_harmless_folder_name() {
        for (id, name) in [("..", "s-.."), (".", "s-."), ("a:b", "s-a:b"), ("--x", "s---x")] {
            let id = SessionId::parse(id).expect("a name");
            assert_eq!(session_folder(&id), name);
        }
        let (a, b) = ("a".repeat(128), "a".repeat(127));
        let name = |id: &str| session_folder(&SessionId::parse(id).expect("a name"));
        assert_ne!(name(&a), name(&b));
        assert!(name(&a).len() < 50);
    }

    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let state = tempfile::tempdir().expect("a folder");
        let key = SessionKey::new(TenantId::default(), SessionId::parse("x").expect("a name"));
        let session = of_session(state.path(), &key).work;
        let mut spare = of_spare(state.path(), &key.tenant).work;
        make(&mut spare).expect("made");
        let session = spare.with_file_name(session.file_name().expect("a name"));
        (state, session, spare)
    }

    #[test]
    fn a_spares_folder_becomes_that_of_a_session_and_goes_with_it() {
        let (state, session, spare) = place();
        link(&session, &spare).expect("linked");
        assert_eq!(resolve(&session).expect("a link of ours"), spare);
        sweep(state.path()).expect("swept");
        assert!(spare.is_dir(), "it is taken");
        assert!(link(&session, &spare).is_err(), "a session has one folder");
        remove(&session).expect("removed");
        assert!(!spare.exists() && !session.is_symlink());
        remove(&session).expect("nothing to remove");
    }

    #[test]
    fn permissions_that_an_agent_took_from_its_folder_are_given_back() {
        let (_state, session, _spare) = place();
        make(&mut session.clone()).expect("made");
        for taken in [0o000, 0o055, 0o500] {
            fs::set_permissions(&session, fs::Permissions::from_mode(taken)).expect("set");
            make(&mut session.clone()).expect("it is there");
            let mode = fs::metadata(&session).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, taken | 0o700);
        }
    }

    #[test]
    fn what_no_session_took_is_swept() {
        let (state, session, spare) = place();
        make(&mut session.clone()).expect("made");
        sweep(state.path()).expect("swept");
        assert!(!spare.exists() && session.is_dir());
        assert_eq!(resolve(&session).expect("no link"), session);
        remove(&session).expect("removed");
        assert!(!session.exists());
    }

    #[test]
    fn b7_folders_of_sessions_without_a_name_are_swept_unless_they_are_known() {
        let (state, session, spare) = place();
        let (left, known) = (SessionId::anonymous(), SessionId::anonymous());
        let folder = |id: &SessionId| spare.with_file_name(format!("s-{id}"));
        for work in [&session, &folder(&left), &folder(&known)] {
            make(&mut work.clone()).expect("made");
        }
        sweep_anonymous(state.path(), |key| key.session == known).expect("swept");
        assert!(!folder(&left).exists());
        assert!(folder(&known).exists() && session.exists() && spare.exists());
    }

    #[test]
    fn a_link_to_elsewhere_is_not_followed() {
        let (_state, session, spare) = place();
        for target in ["/etc", "../p-x", "s-other", "p-x/../.."] {
            symlink(target, &session).expect("linked");
            assert!(resolve(&session).is_err() && remove(&session).is_err(), "{target}");
            fs::remove_file(&session).expect("removed");
        }
        assert!(spare.is_dir());
    }
}
