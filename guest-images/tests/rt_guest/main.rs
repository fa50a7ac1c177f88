//! `rt-guest` as built: what the image looks like, and what it does under QEMU.

mod ends;
mod image;
mod qemu;
mod scheduling;
