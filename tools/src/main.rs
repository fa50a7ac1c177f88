//! stub
#[expect(dead_code, reason = "the commands that write reports are wired next")]
mod report;

fn main() {}
