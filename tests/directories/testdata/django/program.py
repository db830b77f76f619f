# A team's view around what the page prints for Django. The test puts the page's text in the
# place of the line "BLOCK".
import os
from wsgiref.simple_server import make_server

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path


def orders(request):
    # BLOCK headers
    return JsonResponse({"userId": user_id, "phone": phone})


urlpatterns = [path("orders", orders)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
make_server("127.0.0.1", int(os.environ["PORT"]), get_wsgi_application()).serve_forever()
