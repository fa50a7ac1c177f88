//! Experiment `net-isolation`.
#![allow(dead_code)]
mod effect;
mod sharing;
