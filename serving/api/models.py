"""What the API answers with. Amounts of money are decimals as text, exact; days and times are UTC."""

from datetime import date
from decimal import Decimal

from pydantic import BaseModel, Field

from serving.api.parameters import Instant

NEXT = Field(default=None, description="The cursor of the next page; null on the last one.", examples=[None])


class Product(BaseModel):
    """A product over a period."""

    product_id: str = Field(examples=["prod_456"])
    category: str = Field(description="That of the last day.", examples=["Electronics"])
    orders: int = Field(description="Orders with the product in them.", examples=[41])
    quantity: Decimal = Field(examples=["57"])
    revenue: Decimal = Field(examples=["1709.43"])
    views: int = Field(examples=[812])
    conversion_rate: float | None = Field(description="orders ÷ views; null without views.", examples=[0.0505])


class ProductDay(BaseModel):
    """A product on a day with a sale or a view."""

    day: date = Field(examples=["2026-11-27"])
    category: str = Field(description="That of the day.", examples=["Electronics"])
    orders: int = Field(examples=[2])
    quantity: Decimal = Field(examples=["3"])
    revenue: Decimal = Field(examples=["89.97"])
    views: int = Field(examples=[31])


class Products(BaseModel):
    """Products over a period, ordered."""

    first_day: date
    last_day: date
    products: list[Product]
    next: str | None = NEXT


class ProductOverTime(BaseModel):
    """One product, day by day."""

    product_id: str = Field(examples=["prod_456"])
    first_day: date
    last_day: date
    total: Product | None = Field(description="Null when nothing happened in the period.")
    days: list[ProductDay]


class Ranked(BaseModel):
    """A product's place among all and in its category, by revenue of the last 30 days with data."""

    revenue_rank: int = Field(examples=[1])
    revenue_rank_in_category: int = Field(examples=[1])
    product_id: str = Field(examples=["prod_456"])
    category: str = Field(examples=["Electronics"])
    orders: int = Field(examples=[41])
    quantity: Decimal = Field(examples=["57"])
    revenue: Decimal = Field(examples=["1709.43"])
    views: int = Field(examples=[812])
    conversion_rate: float | None = Field(examples=[0.0505])


class Ranking(BaseModel):
    """Products by rank, as of the last cycle."""

    as_of: Instant | None = Field(description="When the analysis was committed.", examples=["2026-11-27T10:05:12Z"])
    products: list[Ranked]
    next: str | None = NEXT


class Segment(BaseModel):
    """A customer segment."""

    segment: str = Field(examples=["High Value"])
    customers: int = Field(examples=[128])
    revenue: Decimal = Field(description="What they have spent, in all.", examples=["183204.11"])
    avg_order_value: float = Field(examples=[104.33])
    analysis_date: date


class Segments(BaseModel):
    """All four segments."""

    segments: list[Segment]


class Score(BaseModel):
    """A customer's recency, frequency and money, each scored 1 to 5."""

    user_id: str = Field(examples=["user_123"])
    recency_days: int = Field(examples=[3])
    frequency: int = Field(examples=[7])
    monetary: Decimal = Field(examples=["1033.20"])
    recency_score: int = Field(ge=1, le=5, examples=[5])
    frequency_score: int = Field(ge=1, le=5, examples=[4])
    monetary_score: int = Field(ge=1, le=5, examples=[5])
    segment: str = Field(examples=["Champions"])


class Scores(BaseModel):
    """Customers of a snapshot, the most money first."""

    analysis_date: date | None = Field(description="The day of the snapshot; null before the first one.")
    customers: list[Score]
    next: str | None = NEXT


class Version(BaseModel):
    """A segment that a customer was in, from one day up to another."""

    segment: str = Field(examples=["Medium Value"])
    effective_date: date
    end_date: date | None = Field(description="The day after the last one; null for the current one.")


class Order(BaseModel):
    """An order of a customer."""

    transaction_id: str
    sold_at: Instant
    lines: int = Field(examples=[2])
    revenue: Decimal = Field(examples=["59.98"])
    is_live: bool = Field(description="Whether no load has read it yet.")


class Customer(BaseModel):
    """One customer: the totals of the last load, the segments so far, and the latest orders, unread ones included."""

    user_id: str = Field(examples=["user_123"])
    segment: str | None = Field(
        description="Null before the first load that knows the customer.", examples=["High Value"]
    )
    first_transaction_date: date | None
    last_transaction_date: date | None
    total_transactions: int
    total_spent: Decimal = Field(examples=["1033.20"])
    history: list[Version]
    score: Score | None = Field(description="Of the latest snapshot; null without a sale before it.")
    latest_orders: list[Order] = Field(description="At most 20, the latest first.")


class Trend(BaseModel):
    """Sales of a period."""

    period: str = Field(examples=["2026-W47"])
    category: str = Field(examples=["All"])
    orders: int = Field(examples=[1204])
    quantity: Decimal = Field(examples=["3310"])
    revenue: Decimal = Field(examples=["98112.40"])
    avg_order_value: float | None = Field(examples=[81.49])
    growth_rate: float | None = Field(
        description="Change of revenue against the period before; null where that says nothing.", examples=[0.081]
    )
    is_running: bool = Field(description="Whether the period isn't over.")
    analysis_date: date


class Trends(BaseModel):
    """Periods, the latest first."""

    period_type: str = Field(examples=["weekly"])
    trends: list[Trend]
    next: str | None = NEXT


class SalesDay(BaseModel):
    """Sales of a day."""

    day: date
    orders: int = Field(examples=[212])
    quantity: Decimal = Field(examples=["590"])
    revenue: Decimal = Field(examples=["17204.55"])


class SalesDays(BaseModel):
    """Sales by day, days without a sale left out."""

    category: str = Field(examples=["All"])
    first_day: date
    last_day: date
    days: list[SalesDay]


class CategorySales(BaseModel):
    """Sales of a category today."""

    category: str = Field(examples=["Electronics"])
    orders: int = Field(
        description="Each once in a category, so that they add up to more than the total.", examples=[90]
    )
    quantity: Decimal = Field(examples=["133"])
    revenue: Decimal = Field(examples=["9310.10"])


class Today(BaseModel):
    """The current UTC day so far, to the last event that is stored."""

    day: date
    orders: int = Field(examples=[212])
    quantity: Decimal = Field(examples=["590"])
    revenue: Decimal = Field(examples=["17204.55"])
    categories: list[CategorySales]


class Minute(BaseModel):
    """What happened in a minute."""

    minute: Instant = Field(examples=["2026-11-27T10:05:00Z"])
    orders: int = Field(examples=[5])
    revenue: Decimal = Field(examples=["402.10"])
    views: int = Field(examples=[88])
    cart_events: int = Field(examples=[41])


class LastHour(BaseModel):
    """The last 60 minutes, the running one included, oldest first."""

    minutes: list[Minute]


class Freshness(BaseModel):
    """How far a realtime table and its fact are."""

    table: str = Field(examples=["transactions"])
    last_batch: int = Field(description="The last batch that is stored.", examples=[8123])
    loaded_batch: int = Field(description="The last batch that is in the fact.", examples=[8100])
    batches_behind: int = Field(description="Served from the realtime database meanwhile.", examples=[23])
    stored_at: Instant | None
    last_event_at: Instant | None
    loaded_at: Instant | None
    run_date: date | None = Field(description="Days before it are settled in the fact.")
    held: int = Field(description="Events put aside: no number contains them.", examples=[0])
    dead_letters: int = Field(description="Messages that couldn't be stored and weren't sent again.", examples=[0])


class PipelineFreshness(BaseModel):
    """All three realtime tables."""

    tables: list[Freshness]


class Lag(BaseModel):
    """Messages of a topic that aren't stored yet."""

    table: str = Field(examples=["transactions"])
    topic: str = Field(examples=["transactions-topic"])
    messages: int = Field(examples=[12])


class PipelineLag(BaseModel):
    """All three topics."""

    topics: list[Lag]


class Run(BaseModel):
    """One attempt of a job."""

    run_id: str
    cycle_id: str | None
    job: str = Field(examples=["etl/fact_sales"])
    run_date: date
    status: str = Field(examples=["done"])
    attempt: int = Field(examples=[1])
    started_at: Instant
    finished_at: Instant | None
    seconds: float | None = Field(examples=[2.41])
    error: str | None = Field(description="Why it isn't done.")


class Runs(BaseModel):
    """Runs, the latest first."""

    runs: list[Run]
    next: str | None = NEXT


class Finding(BaseModel):
    """What a rule of data quality found in the job's last run."""

    job: str = Field(examples=["etl/fact_sales"])
    rule: str = Field(examples=["rows_of_the_ledger"])
    severity: str = Field(examples=["hard"])
    failed_rows: int = Field(examples=[0])
    checked_at: Instant
    run_id: str


class Quality(BaseModel):
    """The findings of each job's last run that checked something, those that found most first."""

    findings: list[Finding]


class Report(BaseModel):
    """The latest good report of a job."""

    job: str = Field(examples=["analytics/rfm_analysis"])
    run_date: date
    finished_at: Instant
    url: str = Field(
        description="Where it is, below this server.", examples=["/reports/latest/analytics/rfm_analysis.html"]
    )


class Reports(BaseModel):
    """The latest good report of each job."""

    reports: list[Report]


class Part(BaseModel):
    """A part that the API needs."""

    name: str = Field(examples=["warehouse"])
    is_ready: bool
    detail: str = Field(examples=["answers"])


class Health(BaseModel):
    """Whether requests can be answered. Without the cache they can, only slower."""

    is_ready: bool
    parts: list[Part]
