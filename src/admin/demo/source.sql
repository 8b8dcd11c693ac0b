-- Only on the source: rows to begin with, the publication, and a role that may read and replicate, and nothing else.
CREATE SEQUENCE shop.entry;
INSERT INTO shop.accounts (id, email, settings)
    SELECT n, 'user' || n || '@example.org', jsonb_build_object('theme', 'dark', 'n', n) FROM generate_series(1, 3000) n;
INSERT INTO shop.orders (account_id, items)
    SELECT 1 + n % 3000, jsonb_build_array(jsonb_build_object('sku', n % 500, 'count', n % 7))
    FROM generate_series(1, 30000) n;
INSERT INTO shop.products (sku, net, tags)
    SELECT 'sku-' || n, n * 1.5, ARRAY['new', 'n' || n % 10] FROM generate_series(1, 500) n;
INSERT INTO shop.documents (id, title, body)
    SELECT n, 'Document ' || n, (SELECT string_agg(md5(n || '/' || m), '') FROM generate_series(1, 200) m)
    FROM generate_series(1, 400) n;
INSERT INTO shop.readings SELECT n % 20, NULLIF(n % 3, 0), now() FROM generate_series(1, 300) n;
INSERT INTO shop.ledger SELECT nextval('shop.entry'), 1 + n % 3000, 1 + n % 2999, n % 100 FROM generate_series(1, 20000) n;

CREATE PUBLICATION walferry_demo FOR TABLE shop.accounts, shop.orders, shop.products, shop.documents, shop.readings,
    shop.carts, shop.ledger;
GRANT USAGE ON SCHEMA shop TO walferry;
GRANT SELECT ON ALL TABLES IN SCHEMA shop TO walferry;
