-- +goose Up

-- One snapshot per cart. The checksum is xxHash64 of id and state. The version, by which replicas
-- tell whether they hold the same, is the XOR over the entries of the version vector of xxHash64 of id,
-- replica and sequence number, and of an erased cart xxHash64 of id and "erased". Both are stored as
-- the signed integer of the same bits. expires_at is in milliseconds of Unix time and NULL for a cart
-- that never expires. Every write of a cart moves it, so what is indexed is the hour: an index entry
-- that moves with each write doubles its cost.
CREATE TABLE carts (
    id           BLOB   NOT NULL PRIMARY KEY,
    revision     BIGINT NOT NULL,
    state        BLOB   NOT NULL,
    checksum     BIGINT NOT NULL,
    version      BIGINT NOT NULL,
    expires_at   BIGINT,
    expires_hour BIGINT
);

CREATE INDEX carts_expiry ON carts (expires_hour) WHERE expires_hour IS NOT NULL;

-- One row per committed batch, until the snapshots of its carts are written. The checksum is
-- xxHash64 of batch.
CREATE TABLE journal (
    seq      INTEGER NOT NULL PRIMARY KEY,
    batch    BLOB    NOT NULL,
    checksum BIGINT  NOT NULL
);

-- +goose Down

DROP TABLE journal;
DROP INDEX carts_expiry;
DROP TABLE carts;
