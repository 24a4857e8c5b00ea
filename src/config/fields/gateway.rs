//! The keys of the section `gateway`.

use super::{Field, MINUTE, Slot, duration, field};
use crate::config::GatewayConfig;

pub(super) fn fields(gateway: &mut GatewayConfig) -> impl IntoIterator<Item = Field<'_>> {
    let GatewayConfig {
        enabled,
        listen,
        upstream,
        api_key_file,
        bearer_token_file,
        tenant,
        price,
        ca,
        http2,
        connect_timeout,
    } = gateway;
    [
        field("gateway.enabled", Slot::Flag(enabled)),
        field("gateway.listen", Slot::Address(listen)),
        field("gateway.upstream", Slot::Url(upstream)),
        field("gateway.api_key_file", Slot::OptionalPath(api_key_file)),
        field("gateway.bearer_token_file", Slot::OptionalPath(bearer_token_file)),
        field("gateway.tenant", Slot::TenantCredentials(tenant)),
        field("gateway.price", Slot::Prices(price)),
        field("gateway.ca", Slot::OptionalPath(ca)),
        field("gateway.http2", Slot::Flag(http2)),
        duration("gateway.connect_timeout", connect_timeout, 5 * MINUTE),
    ]
}
