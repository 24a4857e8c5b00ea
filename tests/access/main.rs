//! Who gets in, and what they reach there: tokens, certificates, tenants, quotas.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod bed;
mod calls;
mod connections;
mod descriptors;
mod quotas;
mod raw;
mod tenants;
mod terminal;
mod tls;
mod tokens;
