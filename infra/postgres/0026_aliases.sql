-- Aliases of playbooks: names for registered versions. `live` has a row only if a version was promoted to it.
create table aliases (
    tenant text not null,
    playbook text not null,
    alias text not null,
    version text not null,
    number bigint not null,
    changed_at double precision not null,
    changed_by text,
    primary key (tenant, playbook, alias)
);
