//! Writes an initramfs: a cpio archive in the "newc" format of
//! Documentation/driver-api/early-userspace/buffer-format.rst. Uncompressed, because an emulated
//! CPU copies faster than it decompresses.

use std::collections::BTreeSet;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;

/// An archive being written.
#[derive(Default)]
pub(super) struct Initramfs {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Initramfs {
    /// Adds a folder and those above it.
    pub fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.folders.contains(path) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above);
        }
        self.folders.insert(path.to_owned());
        self.entry(path, FOLDER, &[]);
    }

    /// Adds a file that can be read.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.file_with_mode(path, FILE, content);
    }

    /// Adds a file that can be executed.
    pub fn executable(&mut self, path: &str, content: &[u8]) {
        self.file_with_mode(path, EXECUTABLE, content);
    }

    fn file_with_mode(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_start_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
        self.entry(path, mode, content);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, device ×4, name size with its NUL, check
        let fields = [self.entries, mode, 0, 0, 1, 0, length(content), 0, 0, 0, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields.iter().chain(&[length(name.as_bytes()) + 1, 0]) {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("an initramfs holds no file of 4 GiB")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::{Need, requires};

    #[test]
    fn every_part_of_an_archive_begins_on_a_multiple_of_four_bytes() {
        let mut archive = Initramfs::default();
        archive.file("/a/b/c", b"xyz");
        let bytes = archive.finish();
        let starts: Vec<usize> = (0..bytes.len() - 5)
            .filter(|&at| &bytes[at..at + 6] == b"070701")
            .collect();
        assert_eq!(starts.len(), 4, "a, a/b, a/b/c and the trailer");
        assert!(starts.iter().all(|at| at % 4 == 0));
    }

    #[test]
    fn cpio_reads_back_what_was_written() {
        requires!(Need::Program("cpio"));
        let mut archive = Initramfs::default();
        archive.executable("/bin/tool", b"12345");
        archive.file("/etc/deep/down", b"content");
        let folder = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["--extract", "--quiet"])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin
            .take()
            .unwrap()
            .write_all(&archive.finish())
            .unwrap();
        assert!(cpio.wait().unwrap().success());
        let read = |path| std::fs::read(folder.path().join(path)).unwrap();
        assert_eq!(read("bin/tool"), b"12345");
        assert_eq!(read("etc/deep/down"), b"content");
    }
}
