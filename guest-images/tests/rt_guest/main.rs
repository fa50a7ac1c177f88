//! `rt-guest` as built: what the image looks like, and what it does under QEMU.

#[cfg(test)]
mod ends;
#[cfg(test)]
mod frames;
#[cfg(test)]
mod image;
#[cfg(test)]
mod lock;
#[cfg(test)]
mod network;
#[cfg(test)]
mod qemu;
#[cfg(test)]
mod scheduling;
