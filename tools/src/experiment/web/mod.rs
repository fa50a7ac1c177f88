//! Experiment `web`.
#![allow(dead_code)]
mod http;
mod statistics;
