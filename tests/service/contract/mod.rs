//! The contract beside turns: sessions and their options, health, reflection, routing.

mod conversations;
mod earlier;
mod health;
mod listing;
pub mod metrics;
mod options;
mod owners;
mod reflection;
mod reset;
mod retries;
mod startup;
mod status_page;
mod store;
