//! Reading a file.

use std::io::{BufReader, Read};

use super::checksum::{FLAG, FileChecksum};
use super::error::truncated;
use super::frame::{FLAG_SIZE, FRAME_PREFIX_LEN, Index, Order, PAGE_HEADER_LEN};
use super::header::{Checksums, u32_at, u64_at};
use super::{Error, Header, Result};

const TRAILER_LEN: usize = 16;

/// The last 16 bytes. The post-apply checksum is 0 but in files that track one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    pub post_apply_checksum: u64,
    pub file_checksum: u64,
}

/// Reads the header at once, then page by page. Buffers for itself: hand it the bare file. Nothing that it gave out is
/// to be believed until [`Decoder::finish`] returned Ok: the checksum is at the end.
pub struct Decoder<R: Read> {
    r: Counted<BufReader<R>>,
    header: Header,
    checksums: Checksums,
    order: Order,
    index: Index,
    checksum: FileChecksum,
    /// The compressed form of the page last read; empty if that was a legacy frame.
    block: Vec<u8>,
    /// The end of the pages was read.
    ended: bool,
}

impl<R: Read> Decoder<R> {
    pub fn new(r: R) -> Result<Self> {
        let mut r = Counted { r: BufReader::with_capacity(16 << 10, r), read: 0 };
        let mut bytes = [0; Header::LEN];
        r.read_exact(&mut bytes).map_err(truncated("the header"))?;
        let (header, checksums) = Header::parse_with_checksums(&bytes)?;
        let mut checksum = FileChecksum::new();
        checksum.update(&bytes);
        let order = Order::new(&header);
        Ok(Self { r, header, checksums, order, index: Index::default(), checksum, block: Vec::new(), ended: false })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The rolling checksum before this file, in files that track one.
    pub fn pre_apply_checksum(&self) -> Option<u64> {
        match self.checksums {
            Checksums::Absent => None,
            Checksums::Kept { pre_apply } => Some(pre_apply),
        }
    }

    /// Puts the next page into `page`, which becomes as long as a page, and gives its number; None behind the last.
    pub fn next_page(&mut self, page: &mut Vec<u8>) -> Result<Option<u32>> {
        if self.ended {
            return Ok(None);
        }
        let start = self.r.read;
        let mut header = [0; PAGE_HEADER_LEN];
        self.r.read_exact(&mut header).map_err(truncated("a page header"))?;
        self.checksum.update(&header);
        if header == [0; PAGE_HEADER_LEN] {
            self.order.end()?;
            self.ended = true;
            return Ok(None);
        }
        let pgno = u32_at(&header, 0);
        self.order.advance(pgno)?;
        page.clear();
        page.resize(self.header.page_size as usize, 0);
        match u16::from_be_bytes([header[4], header[5]]) {
            FLAG_SIZE => self.block(pgno, page)?,
            0 => self.legacy_frame(pgno, page)?,
            flags => return Err(Error::PageFlags { pgno, flags }),
        }
        self.checksum.update(page);
        self.index.push(pgno, start, self.r.read - start);
        Ok(Some(pgno))
    }

    /// Reads what is left, and verifies the index, the checksum and that nothing follows.
    pub fn finish(mut self) -> Result<Trailer> {
        let mut page = Vec::new();
        while self.next_page(&mut page)?.is_some() {}

        // It follows from the pages to the byte (ltx encoder.go sorts it), so it is compared rather than parsed.
        let expected = std::mem::take(&mut self.index).into_bytes();
        let mut index = vec![0; expected.len()];
        self.r.read_exact(&mut index).map_err(truncated("the page index"))?;
        if index != expected {
            return Err(Error::Index);
        }
        self.checksum.update(&index);

        let mut bytes = [0; TRAILER_LEN];
        self.r.read_exact(&mut bytes).map_err(truncated("the trailer"))?;
        self.checksum.update(&bytes[..8]);
        let trailer = Trailer { post_apply_checksum: u64_at(&bytes, 0), file_checksum: u64_at(&bytes, 8) };
        let computed = self.checksum.finish();
        if trailer.file_checksum != computed {
            return Err(Error::Checksum { stored: trailer.file_checksum, computed });
        }
        let post_apply = trailer.post_apply_checksum;
        let legal = match self.checksums {
            Checksums::Absent => post_apply == 0,
            Checksums::Kept { .. } => post_apply & FLAG != 0,
        };
        if !legal {
            return Err(Error::PostApplyChecksum(post_apply));
        }
        match self.r.read_exact(&mut [0]) {
            Ok(()) => Err(Error::TrailingBytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(trailer),
            Err(error) => Err(error.into()),
        }
    }

    /// The page last read, still compressed.
    pub(super) fn compressed(&self) -> Option<&[u8]> {
        (!self.block.is_empty()).then_some(&self.block)
    }

    fn block(&mut self, pgno: u32, page: &mut [u8]) -> Result<()> {
        let mut size = [0; FRAME_PREFIX_LEN - PAGE_HEADER_LEN];
        self.r.read_exact(&mut size).map_err(truncated("a page header"))?;
        self.checksum.update(&size);
        let size = u32_at(&size, 0) as usize;
        // No encoder makes a block longer than this of a page (LZ4's own bound is n + n/255 + 16).
        if size == 0 || size > lz4_flex::block::get_maximum_output_size(page.len()) {
            return Err(Error::Compression(pgno));
        }
        self.block.resize(size, 0);
        self.r.read_exact(&mut self.block).map_err(truncated("a page"))?;
        let got = lz4_flex::block::decompress_into(&self.block, page).map_err(|_| Error::Compression(pgno))?;
        if got == page.len() { Ok(()) } else { Err(Error::PageLength { pgno, expected: page.len(), got }) }
    }

    /// An LZ4 frame with its own end mark and checksum. It is given no more to read than such a page can take.
    fn legacy_frame(&mut self, pgno: u32, page: &mut [u8]) -> Result<()> {
        self.block.clear();
        let limit = 2 * page.len() as u64 + 64;
        let refused = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::Truncated("a page"),
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::Other => Error::Compression(pgno),
            _ => Error::Io(error),
        };
        let mut frame = lz4_flex::frame::FrameDecoder::new((&mut self.r).take(limit));
        frame.read_exact(page).map_err(refused)?;
        match frame.read(&mut [0]).map_err(refused)? {
            0 => Ok(()),
            _ => Err(Error::Compression(pgno)),
        }
    }
}

/// Knows how far it has read, which is what the index is about.
struct Counted<R> {
    r: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.r.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}
