//! The job of an HTTP request: to rotate an image of 2000 x 2000 pixels by 20 degrees, as in the web server experiment of
//! Cucinotta, Anastasi and Abeni (COMPSAC 2009).
//!
//! Red, green and blue, a byte each; every pixel is interpolated from four. In whole numbers only, so that the outcome is the
//! same to a bit wherever it runs, and a client can check the server's work against [`ROTATED`].

/// Pixels of a side.
pub const SIDE: usize = 2000;
/// Bytes of a pixel.
const DEPTH: usize = 3;
/// Bytes of an image.
pub const BYTES: usize = SIDE * SIDE * DEPTH;
/// [`checksum`] of the image rotated.
pub const ROTATED: u32 = 0x3c75_36b3;

/// Bits after the binary point.
const POINT: u32 = 16;
/// Cosine and sine of 20 degrees, times 2^16 and rounded.
const COSINE: i32 = 61_584;
const SINE: i32 = 22_415;

/// Paints the image that is rotated: colours that change everywhere, and edges. Bytes beyond `side` rows stay.
pub fn paint(side: usize, image: &mut [u8]) {
    for (y, row) in image.chunks_exact_mut(side * DEPTH).take(side).enumerate() {
        for (x, pixel) in row.as_chunks_mut::<DEPTH>().0.iter_mut().enumerate() {
            let checked = (x / 50 + y / 50) % 2 * 64;
            *pixel = [low(x ^ y), low(x * y / side + checked), low(x + 2 * y)];
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low byte is wanted")]
const fn low(value: usize) -> u8 {
    value as u8
}

/// Rotates the square image `from` of `side` pixels by 20 degrees about its centre, into `to`. What comes from outside is black.
pub fn rotate(side: usize, from: &[u8], to: &mut [u8]) {
    for (y, row) in to.chunks_exact_mut(side * DEPTH).take(side).enumerate() {
        rotate_row(side, from, row, y);
    }
}

/// One row of [`rotate`].
fn rotate_row(side: usize, from: &[u8], row: &mut [u8], y: usize) {
    let Ok(side_i) = i32::try_from(side) else {
        return;
    };
    // Twice the distance from the centre, which lies between pixels where the side is even.
    let dy = 2 * i32::try_from(y).unwrap_or(0) - (side_i - 1);
    let dx = -(side_i - 1);
    let centre = (side_i - 1) << (POINT - 1);
    let mut u = centre + half(i64::from(COSINE) * i64::from(dx) + i64::from(SINE) * i64::from(dy));
    let mut v = centre + half(i64::from(COSINE) * i64::from(dy) - i64::from(SINE) * i64::from(dx));
    for pixel in row.as_chunks_mut::<DEPTH>().0 {
        *pixel = sample(side, from, u, v);
        u += COSINE;
        v -= SINE;
    }
}

/// Half of a product of this module, which fits.
fn half(product: i64) -> i32 {
    i32::try_from(product >> 1).unwrap_or(0)
}

/// The colour at (u, v), in pixels with [`POINT`] bits after the point.
fn sample(side: usize, from: &[u8], u: i32, v: i32) -> [u8; DEPTH] {
    let inside = |x: i32| usize::try_from(x >> POINT).ok().filter(|x| x + 1 < side);
    let (Some(x), Some(y)) = (inside(u), inside(v)) else {
        return [0; DEPTH];
    };
    let at = (y * side + x) * DEPTH;
    let below = at + side * DEPTH;
    let pair = |at: usize| from.get(at..at + 2 * DEPTH)?.first_chunk::<{ 2 * DEPTH }>();
    let (Some(above), Some(below)) = (pair(at), pair(below)) else {
        return [0; DEPTH];
    };
    let (right, down) = (weight(u), weight(v));
    let mut pixel = [0; DEPTH];
    for (i, channel) in pixel.iter_mut().enumerate() {
        let upper = u32::from(above[i]) * (256 - right) + u32::from(above[i + DEPTH]) * right;
        let lower = u32::from(below[i]) * (256 - right) + u32::from(below[i + DEPTH]) * right;
        // A weighted mean of bytes is a byte.
        *channel = u8::try_from((upper * (256 - down) + lower * down) >> 16).unwrap_or(u8::MAX);
    }
    pixel
}

/// The eight bits after the point.
fn weight(x: i32) -> u32 {
    let [_, high, ..] = x.to_le_bytes();
    high.into()
}

/// Adler-32 (RFC 1950): one plus the sum of the bytes, and the sum of all these sums.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    const MODULUS: u32 = 65_521;
    // The most bytes after which the second sum still fits into 32 bits (zlib's NMAX).
    const CHUNK: usize = 5552;
    let (mut a, mut b) = (1, 0);
    for chunk in bytes.chunks(CHUNK) {
        for byte in chunk {
            a += u32::from(*byte);
            b += a;
        }
        a %= MODULUS;
        b %= MODULUS;
    }
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    /// Rotation by 20 degrees in floating point, of one channel.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole numbers from 0 to the image's side"
    )]
    fn slow(side: usize, from: &[u8], (x, y): (usize, usize), channel: usize) -> f64 {
        let centre = (side as f64 - 1.0) / 2.0;
        let (dx, dy) = (x as f64 - centre, y as f64 - centre);
        let angle = 20_f64.to_radians();
        let u = centre + angle.cos() * dx + angle.sin() * dy;
        let v = centre + angle.cos() * dy - angle.sin() * dx;
        let at = |x: f64, y: f64| {
            let inside = x >= 0.0 && y >= 0.0 && x < side as f64 && y < side as f64;
            let index = (y as usize * side + x as usize) * DEPTH + channel;
            if inside { f64::from(from[index]) } else { 0.0 }
        };
        let (x, y) = (u.floor(), v.floor());
        let (right, down) = (u - x, v - y);
        let upper = at(x, y) * (1.0 - right) + at(x + 1.0, y) * right;
        let lower = at(x, y + 1.0) * (1.0 - right) + at(x + 1.0, y + 1.0) * right;
        upper * (1.0 - down) + lower * down
    }

    #[test]
    fn the_image_rotated_has_the_checksum_that_clients_compare_with() {
        let mut image = vec![0; BYTES];
        let mut rotated = vec![1; BYTES];
        paint(SIDE, &mut image);
        rotate(SIDE, &image, &mut rotated);
        assert_eq!(checksum(&rotated), ROTATED, "{:#x}", checksum(&rotated));
    }

    #[test]
    fn checksums_are_those_of_zlib() {
        assert_eq!(checksum(b""), 1);
        assert_eq!(checksum(b"Wikipedia"), 0x11e6_0398);
        assert_eq!(checksum(&[0xff; 100_000]), 0x149a_302c_u32);
    }

    proptest! {
        #[test]
        fn it_is_the_rotation_of_floating_point_to_within_rounding(
            side in 3usize..40,
            seed in any::<u64>(),
        ) {
            let mut random = crate::random::Random::new(seed);
            // Neighbours differ by little, so that an error in the place shows as a small one in the colour.
            let base = |i: usize| (i % (side * DEPTH)) * 2 + i / (side * DEPTH) * 3;
            let image: Vec<u8> = (0..side * side * DEPTH)
                .map(|i| u8::try_from(base(i) as u64 / 2 + random.uniform(0, 3)).unwrap_or(255))
                .collect();
            let mut rotated = vec![9; image.len()];
            rotate(side, &image, &mut rotated);
            let centre = (side as f64 - 1.0) / 2.0;
            for y in 0..side {
                for x in 0..side {
                    let distance = (x as f64 - centre).hypot(y as f64 - centre);
                    // Near the edge the two may disagree about what is outside.
                    if distance < centre - 1.0 {
                        let fast = f64::from(rotated[(y * side + x) * DEPTH + 1]);
                        prop_assert!((fast - slow(side, &image, (x, y), 1)).abs() <= 3.0);
                    }
                }
            }
        }

        #[test]
        fn a_buffer_of_any_size_is_left_in_peace(side in 0usize..9, from in 0usize..200, to in 0usize..200) {
            let (mut from, mut to) = (vec![3; from], vec![4; to]);
            if side > 0 {
                paint(side, &mut from);
                rotate(side, &from, &mut to);
            }
        }
    }
}
