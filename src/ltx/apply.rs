//! Laying a file onto a database image.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use super::frame::page_after;
use super::{Decoder, Error, Header, Result};

/// How much of neighbouring pages is gathered for one write.
const RUN: usize = 256 << 10;
/// What a database begins with (fileformat2.html 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A database file, or one in memory, that can be given a length.
pub trait Image: Read + Write + Seek {
    /// As [`File::set_len`]: cuts, or fills with zeros.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
}

impl Image for File {
    fn set_len(&mut self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }
}

impl Image for Cursor<Vec<u8>> {
    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.get_mut().resize(len, 0);
        Ok(())
    }
}

/// Writes the pages of a file into the image and gives it its new length. A snapshot may start from an empty image; an
/// increment needs one at the transaction before, which only the caller can know.
///
/// The checksum is known at the end, so that an error leaves a torn image: apply to a temporary file, then rename.
/// Never the file of a database that this process has open (closing it would drop SQLite's locks).
pub fn apply<R: Read, I: Image>(mut decoder: Decoder<R>, image: &mut I) -> Result<Header> {
    let header = *decoder.header();
    let before = pages_before(&header, image)?;
    // What lies past the old end has no other source (litestream #752).
    let mut missing = page_after(before, header.page_size);

    let mut run = Run { at: 0, bytes: Vec::new() };
    let mut page = Vec::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        if pgno > before {
            if pgno != missing {
                return Err(Error::PageMissing(missing));
            }
            missing = page_after(pgno, header.page_size);
        }
        run.add(u64::from(pgno - 1) * u64::from(header.page_size), &page, image)?;
    }
    run.write(image)?;
    if missing <= header.commit {
        return Err(Error::PageMissing(missing));
    }
    decoder.finish()?;
    image.set_len(u64::from(header.commit) * u64::from(header.page_size))?;
    image.flush()?;
    Ok(header)
}

/// How many pages of the image count: none for a snapshot, which brings its own.
fn pages_before<I: Image>(header: &Header, image: &mut I) -> Result<u32> {
    if header.is_snapshot() {
        return Ok(0);
    }
    let len = image.seek(SeekFrom::End(0))?;
    let page_size = u64::from(header.page_size);
    if len == 0 || len % page_size != 0 {
        return Err(Error::Image("its length is not one of a database of this page size"));
    }
    // Bytes 16 and 17 of a database are its page size, with 1 for 65536 (fileformat2.html 1.3.2). Of one that is
    // ciphertext as a whole, they tell nothing, and neither does its beginning.
    let mut stored = [0; 18];
    image.seek(SeekFrom::Start(0))?;
    image.read_exact(&mut stored)?;
    let is_plain = stored.starts_with(MAGIC);
    let stored = match u32::from(u16::from_be_bytes([stored[16], stored[17]])) {
        1 => 65536,
        size => size,
    };
    if is_plain && stored != header.page_size {
        return Err(Error::PageSizeChanged { expected: header.page_size, got: stored });
    }
    u32::try_from(len / page_size).map_err(|_| Error::Image("it has too many pages"))
}

/// Neighbouring pages, written together.
struct Run {
    at: u64,
    bytes: Vec<u8>,
}

impl Run {
    fn add<I: Image>(&mut self, at: u64, page: &[u8], image: &mut I) -> Result<()> {
        if self.at + self.bytes.len() as u64 != at || self.bytes.len() >= RUN {
            self.write(image)?;
            self.at = at;
        }
        self.bytes.extend_from_slice(page);
        Ok(())
    }

    fn write<I: Image>(&mut self, image: &mut I) -> Result<()> {
        if !self.bytes.is_empty() {
            image.seek(SeekFrom::Start(self.at))?;
            image.write_all(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}
