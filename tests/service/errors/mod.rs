//! Every reason of the contract that this version can give: code, domain, metadata, and
//! what a caller can do about it.

mod capacity;
mod cli;
mod connect;
mod listeners;
mod missing;
mod request;
mod size;
mod watchdogs;
