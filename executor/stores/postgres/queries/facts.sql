-- Facts for metrics.

-- Facts that are deleted, by their labels. The transaction must have locked the name of facts.
-- name: take
with taken as (
    delete from facts where ctid = any(array(select ctid from facts limit :limit)) returning *
)
select tenant, playbook, kind, status, bucket, count(*) as count, sum(seconds) as seconds
from taken group by tenant, playbook, kind, status, bucket
