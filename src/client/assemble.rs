//! Events as they come over the network: whole, or in parts that are joined here.

use prost::Message as _;
use tonic::Status;

use crate::proto::{
    AttachResponse, EventPart, QueryResponse, TurnEvent, WatchSessionResponse, attach_response,
    query_response, watch_session_response,
};

/// An item of a stream of events.
pub trait Item {
    /// The event or the part; `None` if it is of a kind that this version does not know.
    fn into_piece(self) -> Option<Piece>;
}

/// An event or a part of one.
#[derive(Debug)]
pub enum Piece {
    /// A whole event.
    Event(Box<TurnEvent>),
    /// A part of one.
    Part(EventPart),
}

impl Item for QueryResponse {
    fn into_piece(self) -> Option<Piece> {
        Some(match self.item? {
            query_response::Item::Event(event) => Piece::Event(event),
            query_response::Item::Part(part) => Piece::Part(part),
        })
    }
}

impl Item for AttachResponse {
    fn into_piece(self) -> Option<Piece> {
        Some(match self.item? {
            attach_response::Item::Event(event) => Piece::Event(event),
            attach_response::Item::Part(part) => Piece::Part(part),
        })
    }
}

impl Item for WatchSessionResponse {
    fn into_piece(self) -> Option<Piece> {
        use watch_session_response::Item as Wire;
        match self.item? {
            Wire::Event(watched) => watched.event.map(|event| Piece::Event(event.into())),
            Wire::Part(watched) => watched.part.map(Piece::Part),
            Wire::Phase(_)
            | Wire::Gap(_)
            | Wire::Session(_)
            | Wire::Failure(_)
            | Wire::Heartbeat(_) => None,
        }
    }
}

/// Joins the parts of an event.
#[derive(Debug, Default)]
pub struct Assembler {
    /// What came of the event so far.
    data: Vec<u8>,
    /// The index of the part that has to come next; 0 between events.
    next: u32,
}

impl Assembler {
    /// Takes an item; gives an event when one is complete.
    pub fn take(&mut self, item: impl Item) -> Result<Option<TurnEvent>, Status> {
        match item.into_piece() {
            Some(Piece::Event(event)) if self.next == 0 => Ok(Some(*event)),
            Some(Piece::Part(part)) if part.index == self.next => self.add(part),
            None => Ok(None),
            _ => Err(Status::internal("the parts of an event came out of order")),
        }
    }

    fn add(&mut self, part: EventPart) -> Result<Option<TurnEvent>, Status> {
        self.data.extend_from_slice(&part.data);
        if !part.last {
            self.next += 1;
            return Ok(None);
        }
        self.next = 0;
        let data = std::mem::take(&mut self.data);
        TurnEvent::decode(data.as_slice())
            .map(Some)
            .map_err(|error| Status::internal(format!("an event in parts is not one: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(sequence: u64) -> QueryResponse {
        let event = TurnEvent { sequence, ..TurnEvent::default() };
        QueryResponse { item: Some(query_response::Item::Event(Box::new(event))) }
    }

    fn parts(event: &TurnEvent, size: usize) -> Vec<QueryResponse> {
        let bytes = event.encode_to_vec();
        let count = bytes.chunks(size).count();
        bytes
            .chunks(size)
            .enumerate()
            .map(|(index, data)| EventPart {
                sequence: event.sequence,
                index: u32::try_from(index).unwrap(),
                last: index + 1 == count,
                data: data.to_vec(),
            })
            .map(|part| QueryResponse { item: Some(query_response::Item::Part(part)) })
            .collect()
    }

    #[test]
    fn parts_become_the_event_that_they_were() {
        let event = TurnEvent { sequence: 7, json: "x".repeat(100), ..TurnEvent::default() };
        let mut assembler = Assembler::default();
        let mut events = Vec::new();
        for item in [vec![whole(6)], parts(&event, 30), vec![whole(8)]].concat() {
            events.extend(assembler.take(item).unwrap());
        }
        let sequences: Vec<_> = events.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences, [6, 7, 8]);
        assert_eq!(events[1], event);
    }

    #[test]
    fn a_missing_part_is_an_error() {
        let event = TurnEvent { sequence: 1, json: "x".repeat(100), ..TurnEvent::default() };
        let items = parts(&event, 30);
        let mut assembler = Assembler::default();
        assert!(assembler.take(items[1].clone()).is_err());
        assert_eq!(assembler.take(items[0].clone()).unwrap(), None);
        assert!(assembler.take(items[2].clone()).is_err());
        assert!(assembler.take(whole(2)).is_err());
    }
}
