"""What is said in the rooms of the sample project."""

from django.db import models


class Saying(models.Model):
    """One message."""

    room = models.IntegerField()
    text = models.TextField()
