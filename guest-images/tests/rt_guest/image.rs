//! The image is what a VMM expects: a PVH ELF file, static, at 1 MiB, small.

/// Little-endian number of `size` bytes at `at`.
fn number(at: usize, size: usize) -> u64 {
    let bytes = &guest_images::RT_GUEST[at..at + size];
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn offset(at: usize, size: usize) -> usize {
    usize::try_from(number(at, size)).unwrap()
}

/// Type, file offset, physical address, size in the file and in memory of each program header.
fn segments() -> Vec<[u64; 5]> {
    let (table, size) = (offset(32, 8), offset(54, 2));
    (0..offset(56, 2))
        .map(|i| table + i * size)
        .map(|at| [(0, 4), (8, 8), (24, 8), (32, 8), (40, 8)].map(|(o, size)| number(at + o, size)))
        .collect()
}

const LOAD: u64 = 1;
const NOTE: u64 = 4;

#[test]
fn it_is_one_static_segment_at_one_mebibyte_that_fits_into_two() {
    assert_eq!(guest_images::RT_GUEST[..5], *b"\x7fELF\x02");
    assert_eq!(number(16, 2), 2, "not ET_EXEC");
    assert_eq!(number(18, 2), 62, "not x86-64");
    let loaded: Vec<_> = segments().into_iter().filter(|s| s[0] == LOAD).collect();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0][2], 0x10_0000);
    assert!(loaded[0][4] <= 1 << 20, "{} bytes", loaded[0][4]);
    assert!(guest_images::RT_GUEST.len() < 256 << 10);
}

#[test]
fn its_note_names_the_pvh_entry() {
    let note = segments().into_iter().find(|s| s[0] == NOTE).unwrap();
    let at = usize::try_from(note[1]).unwrap();
    assert_eq!(
        [number(at, 4), number(at + 4, 4), number(at + 8, 4)],
        [4, 8, 18]
    );
    assert_eq!(guest_images::RT_GUEST[at + 12..at + 16], *b"Xen\0");
    let entry = number(at + 16, 8);
    let image = segments().into_iter().find(|s| s[0] == LOAD).unwrap();
    assert!((image[2]..image[2] + image[3]).contains(&entry));
    assert_eq!(entry, number(24, 8));
}
