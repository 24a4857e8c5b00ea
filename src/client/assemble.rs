//! Events as they come over the network: whole, or in parts that are joined here.

use prost::Message as _;
use tonic::Status;

use crate::proto::{AttachResponse, EventPart, QueryResponse, TurnEvent};

/// An item of a stream of events.
pub trait Item {
    /// The event or the part; one of them is set.
    fn into_pieces(self) -> (Option<TurnEvent>, Option<EventPart>);
}

impl Item for QueryResponse {
    fn into_pieces(self) -> (Option<TurnEvent>, Option<EventPart>) {
        (self.event, self.part)
    }
}

impl Item for AttachResponse {
    fn into_pieces(self) -> (Option<TurnEvent>, Option<EventPart>) {
        (self.event, self.part)
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
        match item.into_pieces() {
            (Some(event), None) if self.next == 0 => Ok(Some(event)),
            (None, Some(part)) if part.index == self.next => self.add(part),
            (None, None) => Ok(None),
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
        QueryResponse { event: Some(TurnEvent { sequence, ..TurnEvent::default() }), part: None }
    }

    fn parts(event: &TurnEvent, size: usize) -> Vec<QueryResponse> {
        let bytes = event.encode_to_vec();
        let count = bytes.chunks(size).count();
        bytes
            .chunks(size)
            .enumerate()
            .map(|(index, data)| QueryResponse {
                event: None,
                part: Some(EventPart {
                    sequence: event.sequence,
                    index: u32::try_from(index).unwrap(),
                    last: index + 1 == count,
                    data: data.to_vec(),
                }),
            })
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
