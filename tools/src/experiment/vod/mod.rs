//! Experiment `vod`.

pub mod course;
pub mod ffmpeg;
pub mod listening;
pub mod monitor;
pub mod quality;
pub mod rtp;
