//! The format against itself: what is written is read, what is damaged is refused, a merge has the effect of its parts.

use std::io::{Cursor, Write};

use bulkhead::ltx::{Decoder, Encoder, Error, FileName, Header, Result, Trailer, Txid, apply, compact};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

type Pages = Vec<(u32, Vec<u8>)>;

fn header(page_size: u32, commit: u32, min: u64, max: u64) -> Header {
    Header {
        page_size,
        commit,
        min: Txid(min),
        max: Txid(max),
        timestamp_ms: 1_700_000_000_000 + i64::try_from(max).unwrap(),
        wal_offset: 32,
        wal_size: 0,
        wal_salts: [1, 2],
        node_id: 0,
    }
}

fn encode(header: Header, pages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for (pgno, page) in pages {
        encoder.page(*pgno, page).unwrap();
    }
    let (file, len) = encoder.finish().unwrap();
    assert_eq!(file.len() as u64, len);
    file
}

fn decode(file: &[u8]) -> Result<(Header, Pages, Trailer)> {
    let mut decoder = Decoder::new(file)?;
    let header = *decoder.header();
    let mut pages = Vec::new();
    let mut page = Vec::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.push((pgno, page.clone()));
    }
    Ok((header, pages, decoder.finish()?))
}

/// Cheap noise that LZ4 cannot shorten.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56).to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

fn page(size: u32) -> impl Strategy<Value = Vec<u8>> {
    let size = size as usize;
    prop_oneof![
        any::<u8>().prop_map(move |byte| vec![byte; size]),
        any::<u64>().prop_map(move |seed| noise(seed, size)),
        (any::<u64>(), 0..size).prop_map(move |(seed, used)| {
            let mut page = noise(seed, size);
            page[used..].fill(0);
            page
        }),
    ]
}

fn increment() -> impl Strategy<Value = (u32, u32, Pages)> {
    (9..=16_u32).prop_flat_map(|bits| {
        let size = 1 << bits;
        (Just(size), 0..8_u32, btree_map(1..40_u32, page(size), 0..12)).prop_map(|(size, more, pages)| {
            let commit = pages.keys().next_back().unwrap_or(&1) + more;
            (size, commit, pages.into_iter().collect())
        })
    })
}

/// A database as it is after each transaction, and the file of each.
fn history() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<Vec<u8>>)> {
    vec((1..24_usize, vec((any::<u64>(), any::<bool>()), 1..10)), 1..8).prop_map(|steps| {
        const SIZE: usize = 512;
        let (mut images, mut files) = (Vec::new(), Vec::new());
        let mut image: Vec<u8> = Vec::new();
        for (step, (commit, changes)) in steps.into_iter().enumerate() {
            let before = image.len() / SIZE;
            image.resize(commit * SIZE, 0);
            let mut touched: Vec<usize> = (before..commit).collect();
            for (seed, plain) in changes {
                let at = usize::try_from(seed % commit as u64).unwrap();
                let new = if plain { vec![seed.to_le_bytes()[1]; SIZE] } else { noise(seed, SIZE) };
                image[at * SIZE..][..SIZE].copy_from_slice(&new);
                touched.push(at);
            }
            // Every image is one that an increment accepts: its page size stands where SQLite puts it.
            image[16..18].copy_from_slice(&512_u16.to_be_bytes());
            touched.extend(if step == 0 { 0..commit } else { 0..1 });
            touched.sort_unstable();
            touched.dedup();
            let pages: Pages = touched
                .into_iter()
                .filter(|at| *at < commit)
                .map(|at| (u32::try_from(at + 1).unwrap(), image[at * SIZE..][..SIZE].to_vec()))
                .collect();
            let txid = step as u64 + 1;
            files.push(encode(header(512, u32::try_from(commit).unwrap(), txid, txid), &pages));
            images.push(image.clone());
        }
        (images, files)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read((size, commit, pages) in increment(), txid in 2..u64::MAX / 2) {
        let header = header(size, commit, txid, txid + 3);
        let (read, read_pages, _) = decode(&encode(header, &pages)).unwrap();
        prop_assert_eq!(read, header);
        prop_assert_eq!(read_pages, pages);
    }

    #[test]
    fn a_merge_has_the_effect_of_its_parts((images, files) in history(), cut in any::<prop::sample::Index>()) {
        let mut one_by_one = Cursor::new(Vec::new());
        for (image, file) in images.iter().zip(&files) {
            apply(Decoder::new(&file[..]).unwrap(), &mut one_by_one).unwrap();
            prop_assert_eq!(one_by_one.get_ref(), image);
        }
        let (whole, merged) = compact(files.iter().map(|file| &file[..]).collect(), Vec::new()).unwrap();
        prop_assert_eq!(merged.max, Txid(files.len() as u64));
        let mut at_once = Cursor::new(Vec::new());
        apply(Decoder::new(&whole[..]).unwrap(), &mut at_once).unwrap();
        prop_assert_eq!(at_once.get_ref(), images.last().unwrap());

        // In two merges, and merged again: the same file to the byte.
        let cut = 1 + cut.index(files.len());
        if cut < files.len() {
            let merge = |files: &[Vec<u8>]| compact(files.iter().map(|file| &file[..]).collect(), Vec::new()).unwrap().0;
            let (early, late) = (merge(&files[..cut]), merge(&files[cut..]));
            let mut image = Cursor::new(Vec::new());
            apply(Decoder::new(&early[..]).unwrap(), &mut image).unwrap();
            prop_assert_eq!(image.get_ref(), &images[cut - 1]);
            apply(Decoder::new(&late[..]).unwrap(), &mut image).unwrap();
            prop_assert_eq!(image.get_ref(), images.last().unwrap());
            prop_assert_eq!(merge(&[early, late]), whole.clone());

            // Overlapping files, as litestream's levels have them.
            let overlapping = merge(&[merge(&files[..cut]), merge(&files[cut - 1..])]);
            prop_assert_eq!(overlapping, whole);
        }
    }

    #[test]
    fn garbage_is_an_error(bytes in vec(any::<u8>(), 0..2000), at in 0..200_usize) {
        prop_assert!(decode(&bytes).is_err());
        let mut file = encode(header(512, 2, 1, 1), &[(1, vec![1; 512]), (2, vec![2; 512])]);
        let at = at.min(file.len());
        file.truncate(at);
        file.extend_from_slice(&bytes);
        let _ = decode(&file);
        let _ = apply_all(&file);
        let _ = file_name(&bytes);
    }
}

fn apply_all(file: &[u8]) -> Result<Vec<u8>> {
    let mut image = Cursor::new(Vec::new());
    apply(Decoder::new(file)?, &mut image)?;
    Ok(image.into_inner())
}

fn file_name(bytes: &[u8]) -> Result<FileName> {
    String::from_utf8_lossy(bytes).parse()
}

/// Turns every byte of a file in several ways. Each damage must be refused or be without any effect: the checksum is
/// over pages as they are, so that another LZ4 block of the same page is not noticed, and need not be. Gives the places
/// where that was so.
fn damage_every_byte(file: &[u8]) -> Vec<(usize, u8)> {
    let whole = decode(file).unwrap();
    let image = apply_all(file).unwrap();
    let merge = |file: &[u8]| Ok::<_, Error>(decode(&compact(vec![file], Vec::new())?.0).unwrap());
    let merged = merge(file).unwrap();
    let mut unnoticed = Vec::new();
    for at in 0..file.len() {
        for flip in [0x01, 0x02, 0x10, 0x80, 0xff] {
            let mut damaged = file.to_vec();
            damaged[at] ^= flip;
            let results = (decode(&damaged), apply_all(&damaged), merge(&damaged));
            match results {
                (Err(_), Err(_), Err(_)) => {}
                (Ok(read), Ok(applied), Ok(compacted)) => {
                    assert!((&read, &applied, &compacted) == (&whole, &image, &merged), "byte {at} ^ {flip:#x}");
                    unnoticed.push((at, flip));
                }
                _ => panic!("byte {at} ^ {flip:#x}: some noticed and some did not"),
            }
        }
    }
    for len in 0..file.len() {
        assert!(decode(&file[..len]).is_err(), "cut to {len} bytes");
        assert!(apply_all(&file[..len]).is_err() && merge(&file[..len]).is_err(), "cut to {len} bytes");
    }
    let longer = [file, &[0]].concat();
    assert!(matches!(decode(&longer), Err(Error::TrailingBytes)));
    unnoticed
}

#[test]
fn damage_is_an_error_at_every_byte() {
    let file = encode(header(512, 3, 1, 1), &[(1, noise(1, 512)), (2, noise(2, 512)), (3, noise(3, 512))]);
    // Stored as literals, which leaves one nibble a page without meaning: the length of a match that never comes.
    let size = usize::from(file[108]) << 8 | usize::from(file[109]);
    let tokens = [0, 1, 2].map(|page| 110 + page * (size + 10));
    for (at, flip) in damage_every_byte(&file) {
        assert!(tokens.contains(&at) && flip < 0x10, "byte {at} ^ {flip:#x} went unnoticed");
    }
    let mut half = noise(4, 512);
    half[100..].fill(0);
    damage_every_byte(&encode(header(512, 2, 1, 1), &[(1, half), (2, vec![7; 512])]));
    damage_every_byte(&legacy(&[(1, noise(5, 512)), (2, vec![0; 512])]));
}

#[test]
fn the_encoder_refuses_what_no_reader_would_take() {
    let page = [0; 512];
    let new = |commit, min| Encoder::new(Vec::new(), header(512, commit, min, min)).unwrap();
    assert!(matches!(new(2, 1).page(2, &page), Err(Error::PageMissing(1))));
    assert!(matches!(new(2, 1).page(1, &page[1..]), Err(Error::PageLength { .. })));
    assert!(matches!(new(2, 2).page(3, &page), Err(Error::PagePastCommit { .. })));
    assert!(matches!(new(u32::MAX, 2).page(2_097_153, &page), Err(Error::LockPage(_))));
    let mut incomplete = new(2, 1);
    incomplete.page(1, &page).unwrap();
    assert!(matches!(incomplete.finish(), Err(Error::PageMissing(2))));
    let mut descending = new(2, 2);
    descending.page(2, &page).unwrap();
    assert!(matches!(descending.page(1, &page), Err(Error::PageOrder { .. })));
    assert!(Encoder::new(Vec::new(), Header { commit: 0, ..header(512, 1, 1, 1) }).is_err());
    assert!(matches!(new(2, 1).image(&[0; 600][..]), Err(Error::Truncated(_))));
}

#[test]
fn a_merge_wants_files_that_join() {
    let one = |min, max| encode(header(512, 1, min, max), &[(1, vec![0; 512])]);
    let merge = |files: &[Vec<u8>]| compact(files.iter().map(|file| &file[..]).collect(), Vec::new());
    assert!(matches!(merge(&[]), Err(Error::NothingToCompact)));
    assert!(matches!(merge(&[one(1, 1), one(3, 3)]), Err(Error::NotContiguous { .. })));
    assert!(matches!(merge(&[one(2, 2), one(1, 1)]), Err(Error::NotContiguous { .. })));
    assert!(matches!(merge(&[one(1, 3), one(2, 3)]), Err(Error::NotContiguous { .. })));
    let large = encode(header(1024, 1, 2, 2), &[(1, vec![0; 1024])]);
    assert!(matches!(merge(&[one(1, 1), large]), Err(Error::PageSizeChanged { .. })));
    let merged = merge(&[one(2, 4), one(5, 5), one(6, 9)]).unwrap().1;
    assert_eq!(merged, Header { wal_offset: 0, wal_salts: [0, 0], ..header(512, 1, 2, 9) });
}

#[test]
fn an_increment_wants_the_image_that_it_follows() {
    let mut base = vec![0; 1024];
    base[16..18].copy_from_slice(&512_u16.to_be_bytes());
    let onto = |image: &[u8], commit, pages: &[u32]| {
        let pages: Pages = pages.iter().map(|pgno| (*pgno, vec![9; 512])).collect();
        let mut image = Cursor::new(image.to_vec());
        apply(Decoder::new(&encode(header(512, commit, 2, 2), &pages)[..]).unwrap(), &mut image)
            .map(|_| image.into_inner())
    };
    assert_eq!(onto(&base, 2, &[2]).unwrap(), [&base[..512], &[9; 512]].concat());
    assert_eq!(onto(&base, 1, &[]).unwrap(), base[..512]);
    assert_eq!(onto(&base, 4, &[1, 3, 4]).unwrap().len(), 2048);
    assert!(matches!(onto(&base, 4, &[4]), Err(Error::PageMissing(3))));
    assert!(matches!(onto(&base, 4, &[3]), Err(Error::PageMissing(4))));
    assert!(matches!(onto(&base, u32::MAX, &[1]), Err(Error::PageMissing(3))));
    assert!(matches!(onto(&[], 1, &[1]), Err(Error::Image(_))));
    assert!(matches!(onto(&base[..1000], 2, &[1]), Err(Error::Image(_))));
    base[..16].copy_from_slice(b"SQLite format 3\0");
    assert!(onto(&base, 2, &[1]).is_ok());
    base[16..18].copy_from_slice(&1024_u16.to_be_bytes());
    assert!(matches!(onto(&base, 2, &[1]), Err(Error::PageSizeChanged { .. })));
    // A file that is ciphertext as a whole says nothing of its pages.
    assert!(onto(&[0xa5; 1024], 2, &[1]).is_ok());
}

/// A snapshot as superfly/ltx once wrote it: rolling checksums, and each page an LZ4 frame.
fn legacy(pages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let crc = crc::Crc::<u64>::new(&crc::CRC_64_GO_ISO);
    let mut digest = crc.digest();
    let commit = u32::try_from(pages.len()).unwrap();
    let mut file = header(512, commit, 1, 1).to_bytes().to_vec();
    file[7] = 0;
    digest.update(&file);
    let mut index = Vec::new();
    let varint = |index: &mut Vec<u8>, mut value: usize| {
        while value > 127 {
            index.push(u8::try_from(value & 127).unwrap() | 128);
            value >>= 7;
        }
        index.push(u8::try_from(value).unwrap());
    };
    for (pgno, page) in pages {
        let start = file.len();
        file.extend_from_slice(&pgno.to_be_bytes());
        file.extend_from_slice(&[0, 0]);
        digest.update(&file[start..]);
        let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
        let mut frame = lz4_flex::frame::FrameEncoder::with_frame_info(info, &mut file);
        frame.write_all(page).unwrap();
        frame.finish().unwrap();
        digest.update(page);
        varint(&mut index, *pgno as usize);
        varint(&mut index, start);
        varint(&mut index, file.len() - start);
    }
    index.push(0);
    let len = (index.len() as u64).to_be_bytes();
    let tail = [&[0; 6][..], &index, &len, &(1_u64 << 63 | 5).to_be_bytes()].concat();
    digest.update(&tail);
    file.extend_from_slice(&tail);
    file.extend_from_slice(&(1 << 63 | digest.finalize()).to_be_bytes());
    file
}

#[test]
fn files_of_the_old_form_are_read() {
    let pages = vec![(1, noise(1, 512)), (2, vec![0; 512]), (3, noise(2, 512))];
    let file = legacy(&pages);
    let (read, read_pages, trailer) = decode(&file).unwrap();
    assert_eq!((read, read_pages), (header(512, 3, 1, 1), pages.clone()));
    assert_eq!(trailer.post_apply_checksum, 1 << 63 | 5);
    assert_eq!(Decoder::new(&file[..]).unwrap().pre_apply_checksum(), Some(0));

    // Merged, it takes the new form.
    let (merged, _) = compact(vec![&file[..]], Vec::new()).unwrap();
    assert_eq!(decode(&merged).unwrap().1, pages);
    assert_eq!(Decoder::new(&merged[..]).unwrap().pre_apply_checksum(), None);
}
