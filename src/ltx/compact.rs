//! Merging a run of files into one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

use super::{Decoder, Encoder, Error, Header, Result, Txid};

/// Merges files, oldest first, into one that has the same effect: of each page the newest copy, none past the final
/// size. Holds a page an input in memory. On an error what was written to `out` is to be thrown away.
///
/// Files may overlap as litestream's do (`ltx.IsContiguous`): each starts at most one past the end of the one before,
/// and goes beyond it.
pub fn compact<R: Read, W: Write>(inputs: Vec<R>, out: W) -> Result<(W, Header)> {
    let mut inputs = inputs.into_iter().map(Input::open).collect::<Result<Vec<_>>>()?;
    let header = merged_header(&inputs)?;
    let mut encoder = Encoder::new(out, header)?;

    // The lowest page first; of the same page, the newest input first.
    let mut heads = BinaryHeap::new();
    for (position, input) in inputs.iter_mut().enumerate() {
        heads.extend(input.advance()?.map(|pgno| (Reverse(pgno), position)));
    }
    let mut done = 0;
    while let Some((Reverse(pgno), position)) = heads.pop() {
        let Some(input) = inputs.get_mut(position) else { break };
        if pgno > done {
            done = pgno;
            if pgno <= header.commit {
                input.copy_to(pgno, &mut encoder)?;
            }
        }
        heads.extend(input.advance()?.map(|next| (Reverse(next), position)));
    }

    for input in inputs {
        input.decoder.finish()?;
    }
    let (out, _) = encoder.finish()?;
    Ok((out, header))
}

fn merged_header<R: Read>(inputs: &[Input<R>]) -> Result<Header> {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else { return Err(Error::NothingToCompact) };
    for (previous, next) in inputs.iter().zip(inputs.iter().skip(1)) {
        let (previous, next) = (previous.decoder.header(), next.decoder.header());
        if next.page_size != previous.page_size {
            return Err(Error::PageSizeChanged { expected: previous.page_size, got: next.page_size });
        }
        let Header { min, max, .. } = *next;
        if min > previous.max.next() || max <= previous.max {
            return Err(Error::NotContiguous { previous_max: previous.max, min, max });
        }
    }
    let (first, last) = (first.decoder.header(), last.decoder.header());
    let min: Txid = first.min;
    // The WAL and the node belong to the files merged, not to what they make.
    Ok(Header { min, wal_offset: 0, wal_size: 0, wal_salts: [0, 0], node_id: 0, ..*last })
}

struct Input<R: Read> {
    decoder: Decoder<R>,
    page: Vec<u8>,
}

impl<R: Read> Input<R> {
    fn open(r: R) -> Result<Self> {
        Ok(Self { decoder: Decoder::new(r)?, page: Vec::new() })
    }

    fn advance(&mut self) -> Result<Option<u32>> {
        self.decoder.next_page(&mut self.page)
    }

    fn copy_to<W: Write>(&self, pgno: u32, encoder: &mut Encoder<W>) -> Result<()> {
        match self.decoder.compressed() {
            Some(block) => encoder.page_as_compressed(pgno, &self.page, block),
            None => encoder.page(pgno, &self.page),
        }
    }
}
