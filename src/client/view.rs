//! Shows the events of one turn as they come: to people or to programs.

use super::{
    args::Show,
    exit::Failure,
    output::{has_colours, is_screen, print, remark, screen_width},
    proto_json,
    render::{Renderer, Screen},
};
use crate::proto::{QueryResponse, TurnEvent, query_response};

/// How events are shown.
pub enum View {
    /// As text.
    People(Box<Renderer>),
    /// As JSON.
    Programs,
}

impl View {
    /// As `show` says.
    pub fn new(show: Show) -> Self {
        if show.form.json {
            return Self::Programs;
        }
        let (colour, remarks_colour) = has_colours();
        let (is_screen, width) = (is_screen(), screen_width());
        Self::People(Renderer::new(Screen { is_screen, colour, remarks_colour, width }).into())
    }

    /// Shows the next event.
    pub fn show(&mut self, event: &TurnEvent) -> Result<(), Failure> {
        match self {
            Self::People(renderer) => {
                // A terminal can be made wider or narrower at any time.
                renderer.resize(screen_width());
                let rendered = renderer.render(event);
                if !rendered.answer.is_empty() {
                    print(&rendered.answer)?;
                }
                if !rendered.remarks.is_empty() {
                    remark(&rendered.remarks);
                }
            }
            // Whole, whatever it came in.
            Self::Programs => {
                let item = query_response::Item::Event(event.clone().into());
                print(&proto_json::line("QueryResponse", &QueryResponse { item: Some(item) })?)?;
            }
        }
        Ok(())
    }

    /// Ends the line that an error left unfinished.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if let Self::People(renderer) = self {
            let rendered = renderer.finish();
            print(&rendered.answer)?;
            remark(&rendered.remarks);
        }
        Ok(())
    }
}
