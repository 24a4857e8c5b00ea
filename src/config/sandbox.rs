//! The section `sandbox`: what of the machine sessions see where a sandbox keeps them apart. As in
//! `sections`, each comment ends with the default and the bounds, and `docs/configuration.md` is made
//! from it.

/// What sessions see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxConfig {
    /// Files and folders that sessions see, read-only, although bubblewrap would hide them:
    /// certificates, cloud credentials. Absolute paths. Default none, at most 64.
    pub readable: Vec<String>,
    /// Files and folders that sessions do not see in bubblewrap, beside those that are hidden
    /// anyway: data of other services, mounted volumes. Absolute paths, which have to be there at
    /// the start. Default none, at most 64.
    pub hidden: Vec<String>,
}
