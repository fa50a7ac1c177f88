//! Experiment `web`.
#![allow(dead_code)]
mod client;
mod http;
mod server;
mod statistics;
pub use client::ClientError;
