"""The table of sayings."""

# ruff: noqa: RUF012 (as migrations are written)

from django.db import migrations, models


class Migration(migrations.Migration):
    """As `makemigrations` writes it."""

    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Saying",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False, verbose_name="ID")),
                ("room", models.IntegerField()),
                ("text", models.TextField()),
            ],
        ),
    ]
