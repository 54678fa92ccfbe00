//! Writing a file.

use std::io::{BufWriter, Read, Write};

use super::checksum::FileChecksum;
use super::error::truncated;
use super::frame::{FLAG_SIZE, FRAME_PREFIX_LEN, Index, Order, PAGE_HEADER_LEN, lock_page};
use super::{Error, Header, Result};

/// Writes the header at once, then page by page in ascending order. Buffers for itself: hand it the bare file. What
/// was written is no file until [`Encoder::finish`] returned Ok.
pub struct Encoder<W: Write> {
    w: BufWriter<W>,
    header: Header,
    order: Order,
    index: Index,
    checksum: FileChecksum,
    written: u64,
    compressed: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    pub fn new(w: W, header: Header) -> Result<Self> {
        header.validate()?;
        let mut encoder = Self {
            w: BufWriter::with_capacity(64 << 10, w),
            header,
            order: Order::new(&header),
            index: Index::default(),
            checksum: FileChecksum::new(),
            written: 0,
            compressed: vec![0; lz4_flex::block::get_maximum_output_size(header.page_size as usize)],
        };
        encoder.write(&header.to_bytes())?;
        Ok(encoder)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next page: past the one before, at most the header's commit, never the lock page; in a snapshot, each one.
    pub fn page(&mut self, pgno: u32, page: &[u8]) -> Result<()> {
        self.admit(pgno, page)?;
        let mut compressed = std::mem::take(&mut self.compressed);
        let len = lz4_flex::block::compress_into(page, &mut compressed).map_err(|_| Error::Compression(pgno))?;
        let outcome = self.frame(pgno, page, &compressed[..len]);
        self.compressed = compressed;
        outcome
    }

    /// A page with the block that it was just decompressed from: compressing is the dearest step, and a merge need not
    /// repeat it.
    pub(super) fn page_as_compressed(&mut self, pgno: u32, page: &[u8], block: &[u8]) -> Result<()> {
        self.admit(pgno, page)?;
        self.frame(pgno, page, block)
    }

    /// Every page of a database image, the lock page skipped.
    pub fn image(&mut self, mut image: impl Read) -> Result<()> {
        let mut page = vec![0; self.header.page_size as usize];
        for pgno in 1..=self.header.commit {
            image.read_exact(&mut page).map_err(truncated("the database image"))?;
            if pgno != lock_page(self.header.page_size) {
                self.page(pgno, &page)?;
            }
        }
        Ok(())
    }

    /// One page of such an image; the lock page is skipped.
    pub fn page_of_image(&mut self, pgno: u32, page: &[u8]) -> Result<()> {
        if pgno == lock_page(self.header.page_size) { Ok(()) } else { self.page(pgno, page) }
    }

    /// Gives back the writer, flushed, and how many bytes the file has.
    pub fn finish(mut self) -> Result<(W, u64)> {
        self.order.end()?;
        self.write(&[0; PAGE_HEADER_LEN])?;
        let index = std::mem::take(&mut self.index).into_bytes();
        self.write(&index)?;
        // No post-apply checksum, as the header says.
        self.write(&0_u64.to_be_bytes())?;
        let checksum = self.checksum.finish().to_be_bytes();
        self.w.write_all(&checksum)?;
        let mut w = self.w.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        w.flush()?;
        Ok((w, self.written + checksum.len() as u64))
    }

    fn admit(&mut self, pgno: u32, page: &[u8]) -> Result<()> {
        let expected = self.header.page_size as usize;
        if page.len() != expected {
            return Err(Error::PageLength { pgno, expected, got: page.len() });
        }
        self.order.advance(pgno)
    }

    /// The checksum covers the page as it is, not as it was compressed.
    fn frame(&mut self, pgno: u32, page: &[u8], block: &[u8]) -> Result<()> {
        let size = u32::try_from(block.len()).map_err(|_| Error::Compression(pgno))?;
        let mut prefix = [0; FRAME_PREFIX_LEN];
        prefix[..4].copy_from_slice(&pgno.to_be_bytes());
        prefix[4..6].copy_from_slice(&FLAG_SIZE.to_be_bytes());
        prefix[6..].copy_from_slice(&size.to_be_bytes());
        let start = self.written;
        self.write(&prefix)?;
        self.w.write_all(block)?;
        self.checksum.update(page);
        self.written += block.len() as u64;
        self.index.push(pgno, start, self.written - start);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.w.write_all(bytes)?;
        self.checksum.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}
