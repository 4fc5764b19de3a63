-- sums that no number of rows within the contract's bounds can overflow; docs/data-model.md has the arithmetic
-- a cart event's quantity times its price may be 10 ^ 23, where an order line's stays below 10 ^ 16
alter table fact_cart_events alter column total_amount type numeric(38, 2);
alter table dim_customers alter column total_spent type numeric(38, 2);
alter table ops.fact_days alter column amount type numeric(38, 2);
alter table ops.sales_days
alter column quantity type numeric(38),
alter column revenue type numeric(38, 2);
alter table product_performance
alter column total_revenue type numeric(38, 2),
alter column total_quantity type numeric(38);
alter table customer_segments alter column total_revenue type numeric(38, 2);
alter table rfm_analysis alter column monetary_value type numeric(38, 2);
alter table sales_trends
alter column total_revenue type numeric(38, 2),
alter column total_quantity type numeric(38);
