"""The paths of the sample project."""

from django.urls import path

from geventws.django import websocket_view
from sample import views

urlpatterns = [
    path("", views.page),
    path("slow/", views.slow_page),
    path("login/", views.page),
    path("ws/echo/", views.echo),
    path("ws/<int:room>/", views.room, name="room"),
    path("ws/members/", views.members),
    path("ws/members/below/", views.members_below),
    path("ws/members/class/", websocket_view(views.MembersOnly.as_view())),
    path("ws/writers/", views.writers),
    path("ws/short/", views.ShortMessages.as_view()),
    path("ws/choosy/", views.choosy),
    path("ws/visits/", views.visits),
    path("ws/token/", views.token),
    path("ws/sayings/<int:room>/", views.sayings),
    path("ws/transactions/<int:room>/", views.transactions),
    path("ws/transactions/waits/", views.waits_in_a_transaction),
    path("ws/naps/", views.naps),
    path("ws/keeps/", views.keeps),
    path("ws/later/", views.changes_later),
    path("ws/fails/first/", views.fails_first),
    path("ws/fails/<str:how>/", views.fails),
    path("ws/late/", views.too_late),
    path("ws/returns/", views.returns),
    path("ws/stuck/", views.stuck),
    path("clock/", views.clock),
    path("atomic/", views.atomic),
]
