//! Where a session's processes work and what they leave there. A session that was begun
//! on a spare has that spare's folder: its own name is a link to it, which every later
//! process follows, because the CLI keeps transcripts by the real path.
//!
//! Each work folder has a `HOME` of the same name beside it. What shells and tools find there they
//! obey, so no session writes to that of another.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use tracing::warn;

use crate::{
    cli::{command::Folders, config_folder},
    domain::ids::{SessionId, SessionKey, TenantId},
    os::confined::Folder,
};

/// Session ids up to this length name their folder as they are; longer ones would
/// make the CLI shorten the name of the transcript's folder.
const LONGEST_PLAIN_NAME: usize = 64;

/// The folder of a tenant's work folders.
const WORK: &str = "work";

/// The folder of the `HOME` of each of them.
const HOMES: &str = "homes";

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

fn of_tenant(state_dir: &Path, tenant: &TenantId, name: &str) -> Folders {
    let tenant = state_dir.join("tenants").join(tenant_folder(tenant));
    Folders {
        work: tenant.join(WORK).join(name),
        config: tenant.join("claude"),
        home: tenant.join(HOMES).join(name),
        extra: Vec::new(),
    }
}

/// Makes the folders that a session has beside its work folder. Where there are no walls, what a
/// session has written in the tenant's for others to obey is removed.
pub fn make_others(folders: &mut Folders, walls: bool) -> io::Result<()> {
    // It goes with the folder that the session has, whatever else it was told to work in.
    let own = resolve(&sibling(&folders.home, WORK)?)?;
    folders.home = sibling(&own, HOMES)?;
    [&mut folders.config, &mut folders.home].into_iter().try_for_each(make)?;
    let config = Folder::open(&folders.config)?;
    config_folder::make(&config)?;
    if !walls {
        for name in config_folder::reset(&config)? {
            let folder = folders.config.display();
            warn!(%folder, name, "planted_configuration_removed");
        }
    }
    Ok(())
}

/// The folder of the same name in another one of the tenant's.
fn sibling(folder: &Path, of: &str) -> io::Result<PathBuf> {
    let name = folder.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let tenant = folder.parent().and_then(Path::parent).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(tenant.join(of).join(name))
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

/// Removes a session's folder and its `HOME` with all that is in them, and its name.
pub fn remove(work: &Path) -> io::Result<()> {
    let folder = resolve(work)?;
    remove_tree(&sibling(&folder, HOMES)?)?;
    remove_tree(&folder)?;
    if folder == work {
        return Ok(());
    }
    // It had one of its own name as long as it worked elsewhere. And the link is left.
    remove_tree(&sibling(work, HOMES)?)?;
    remove_tree(work)
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
        let tenant = tenant?.path();
        let paths = entries_of(&tenant.join(WORK)).unwrap_or_default();
        let taken: Vec<PathBuf> = paths
            .iter()
            .filter(|path| path.is_symlink())
            .filter_map(|path| resolve(path).ok())
            .collect();
        let is_spare = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(SPARE)) && !taken.contains(path)
        };
        // One that was removed halfway may have left either.
        let homes = entries_of(&tenant.join(HOMES)).unwrap_or_default();
        let homes = homes.iter().filter_map(|home| sibling(home, WORK).ok());
        let left = homes.chain(paths.iter().cloned()).filter(is_spare);
        left.collect::<BTreeSet<_>>().iter().try_for_each(|work| remove(work))?;
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
        let homes = entries_of(&tenant.join(HOMES))?;
        let homes = homes.iter().map(|home| sibling(home, WORK)).collect::<io::Result<Vec<_>>>()?;
        for work in entries_of(&tenant.join(WORK))?.into_iter().chain(homes) {
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
    fn a_home_goes_with_the_folder_that_a_session_has() {
        let (state, session, spare) = place();
        let key = SessionKey::new(TenantId::default(), SessionId::parse("x").expect("a name"));
        let home_of = || {
            let mut folders = of_session(state.path(), &key);
            make_others(&mut folders, true).expect("made");
            folders.home
        };
        // It worked in a folder that its caller chose before it was given a spare.
        let before = home_of();
        assert_eq!(before.file_name(), session.file_name());
        link(&session, &spare).expect("linked");
        let home = home_of();
        assert_eq!(home.file_name(), spare.file_name());
        fs::write(home.join(".bashrc"), "").expect("written");
        sweep(state.path()).expect("swept");
        assert!(home.exists(), "it is taken");
        remove(&session).expect("removed");
        assert!(!before.exists() && !home.exists() && !spare.exists());
    }

    #[test]
    fn homes_without_a_work_folder_are_swept_too() {
        let (state, session, spare) = place();
        let homes = spare.parent().and_then(Path::parent).expect("a tenant").join(HOMES);
        let [spares, left, named] = ["p-gone", &format!("s-{}", SessionId::anonymous()), "s-x"]
            .map(|name| homes.join(name));
        for home in [&spares, &left, &named] {
            make(&mut home.clone()).expect("made");
        }
        sweep(state.path()).expect("swept");
        sweep_anonymous(state.path(), |_| false).expect("swept");
        assert!(!spares.exists() && !left.exists() && named.exists() && !session.exists());
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
