//! CRC-32 as in IEEE 802.3 (reflected polynomial 0xedb88320).

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte;
        let mut bit = 0;
        while bit < 8 {
            rest = (rest >> 1) ^ (0xedb8_8320 * (rest & 1));
            bit += 1;
        }
        table[byte as usize] = rest;
        byte += 1;
    }
    table
}

pub(super) fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |rest, &byte| {
        TABLE[usize::from(byte ^ rest.to_le_bytes()[0])] ^ (rest >> 8)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_the_one_that_everybody_calls_crc_32() {
        assert_eq!(super::crc(b"123456789"), 0xcbf4_3926);
        assert_eq!(super::crc(b""), 0);
    }
}
