//! What encoder and decoder must agree on: page headers, the order of pages, the index.

use super::{Error, Header, Result};

/// Page number and flags.
pub(super) const PAGE_HEADER_LEN: usize = 6;
/// The page header and the size of the compressed block.
pub(super) const FRAME_PREFIX_LEN: usize = 10;
/// A size follows, then one LZ4 block; without it an LZ4 frame follows (older files of superfly/ltx).
pub(super) const FLAG_SIZE: u16 = 1;

/// The page of byte 0x40000000, on which SQLite takes its locks and which holds no data.
pub(super) fn lock_page(page_size: u32) -> u32 {
    0x4000_0000 / page_size + 1
}

/// The page after, the lock page left out. Saturates: no database has that many.
pub(super) fn page_after(pgno: u32, page_size: u32) -> u32 {
    let next = pgno.saturating_add(1);
    if next == lock_page(page_size) { next.saturating_add(1) } else { next }
}

/// Which page may come next.
pub(super) struct Order {
    page_size: u32,
    commit: u32,
    snapshot: bool,
    previous: u32,
}

impl Order {
    pub(super) fn new(header: &Header) -> Self {
        Self { page_size: header.page_size, commit: header.commit, snapshot: header.is_snapshot(), previous: 0 }
    }

    pub(super) fn advance(&mut self, pgno: u32) -> Result<()> {
        if pgno <= self.previous {
            return Err(Error::PageOrder { previous: self.previous, pgno });
        }
        if pgno > self.commit {
            return Err(Error::PagePastCommit { pgno, commit: self.commit });
        }
        if pgno == lock_page(self.page_size) {
            return Err(Error::LockPage(pgno));
        }
        let next = page_after(self.previous, self.page_size);
        if self.snapshot && pgno != next {
            return Err(Error::PageMissing(next));
        }
        self.previous = pgno;
        Ok(())
    }

    /// Nothing follows: a snapshot must have reached the end.
    pub(super) fn end(&self) -> Result<()> {
        let next = page_after(self.previous, self.page_size);
        if self.snapshot && next <= self.commit { Err(Error::PageMissing(next)) } else { Ok(()) }
    }
}

/// The index as it stands in the file, built as pages pass.
#[derive(Default)]
pub(super) struct Index(Vec<u8>);

impl Index {
    pub(super) fn push(&mut self, pgno: u32, offset: u64, len: u64) {
        self.varint(u64::from(pgno));
        self.varint(offset);
        self.varint(len);
    }

    /// With the closing zero and the length of it all.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.0.push(0);
        let len = self.0.len() as u64;
        self.0.extend_from_slice(&len.to_be_bytes());
        self.0
    }

    /// Unsigned LEB128, as Go's `binary.AppendUvarint`.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Txid;
    use super::*;

    fn order(commit: u32, min: u64) -> Order {
        let header = Header {
            page_size: 65536,
            commit,
            min: Txid(min),
            max: Txid(min),
            timestamp_ms: 0,
            wal_offset: 0,
            wal_size: 0,
            wal_salts: [0, 0],
            node_id: 0,
        };
        Order::new(&header)
    }

    #[test]
    fn a_snapshot_has_every_page_but_the_lock_page() {
        let mut pages = order(16387, 1);
        assert!(matches!(pages.advance(2), Err(Error::PageMissing(1))));
        for pgno in (1..=16384).chain(16386..=16386) {
            pages.advance(pgno).unwrap();
        }
        assert!(matches!(pages.end(), Err(Error::PageMissing(16387))));
        pages.advance(16387).unwrap();
        pages.end().unwrap();
        assert!(matches!(pages.advance(16388), Err(Error::PagePastCommit { pgno: 16388, commit: 16387 })));

        // A database that ends on the lock page is complete without it.
        let mut pages = order(16385, 1);
        (1..=16384).for_each(|pgno| pages.advance(pgno).unwrap());
        assert!(matches!(pages.advance(16385), Err(Error::LockPage(16385))));
        pages.end().unwrap();
    }

    #[test]
    fn an_increment_ascends() {
        let mut pages = order(16387, 2);
        assert!(matches!(pages.advance(0), Err(Error::PageOrder { .. })));
        pages.advance(7).unwrap();
        assert!(matches!(pages.advance(7), Err(Error::PageOrder { previous: 7, pgno: 7 })));
        assert!(matches!(pages.advance(16385), Err(Error::LockPage(_))));
        pages.advance(16387).unwrap();
        pages.end().unwrap();
    }

    #[test]
    fn the_lock_page_is_where_sqlite_has_it() {
        assert_eq!([512, 4096, 65536].map(lock_page), [2_097_153, 262_145, 16385]);
    }

    #[test]
    fn the_index_is_leb128_with_its_length() {
        let mut index = Index::default();
        index.push(1, 100, 300);
        assert_eq!(index.into_bytes(), [1, 100, 0xac, 2, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    }
}
